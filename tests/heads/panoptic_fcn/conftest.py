"""Where the official arrays are."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def reference(shared) -> Path:
    return shared / "reference"
