"""Small data sets in the official formats, registered for one test."""

import pytest

from . import toys


@pytest.fixture
def coco(tmp_path):
    name = toys.make_coco(tmp_path / "coco")
    yield name
    toys.remove(name)


@pytest.fixture
def cityscapes(tmp_path):
    pytest.importorskip("cityscapesscripts")
    names = toys.make_cityscapes(tmp_path)
    yield names
    for name in names.values():
        toys.remove(name)
