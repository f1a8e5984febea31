"""Fixtures for all tests. Tests that need whole data sets skip where ``../shared`` is absent."""

import logging
import os
from pathlib import Path

import pytest
import torch

from .toys.training import write_camvid

TESTS = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("FAPN_SHARED", TESTS.parents[1] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with whole data sets (``data/``); not part of the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} does not exist (set FAPN_SHARED to its place)")
    return SHARED


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder with what the papers print and what their official modules computed; see its README.md."""
    return TESTS / "reference"


@pytest.fixture(scope="session")
def real_images(reference) -> Path:
    """Folder with four real photographs and real annotations; see its README.md."""
    return reference / "images"


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


@pytest.fixture(autouse=True)
def _keep_loggers():
    """Set-up gives loggers handlers of its own; later tests listen to them by pytest's."""
    loggers = [logging.getLogger(name) for name in ("fapn_d2", "detectron2", "fvcore")]
    before = [(logger.propagate, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, (propagate, level, handlers) in zip(loggers, before):
        logger.propagate, logger.handlers = propagate, handlers
        logger.setLevel(level)


@pytest.fixture
def camvid(tmp_path, monkeypatch):
    """A small CamVid under $DETECTRON2_DATASETS."""
    root = write_camvid(tmp_path / "datasets")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    return root
