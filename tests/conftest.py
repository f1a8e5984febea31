"""Fixtures for all tests. Tests that need the reference arrays or real images skip where ``../shared`` is absent."""

import os
from pathlib import Path

import pytest
import torch

SHARED = Path(os.environ.get("FAPN_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with reference arrays (``reference/``) and real images (``data/``)."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is absent (set FAPN_SHARED to its place)")
    return SHARED


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs CUDA")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
