"""Data sets of a few small images, made once."""

import pytest
from detectron2.config import get_cfg

from fapn_d2 import add_fapn_config
from fapn_d2.data import generate_shapes

SHAPES_SPLITS = {"train": 6, "val": 3}
SHAPES_SIZE = (96, 128)


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory):
    """A data root with a small copy of shapes in it."""
    root = tmp_path_factory.mktemp("datasets")
    generate_shapes(root / "shapes", splits=SHAPES_SPLITS, size=SHAPES_SIZE)
    return root


@pytest.fixture
def shapes(shapes_root, monkeypatch):
    """The same, set as the data root."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes_root))
    return shapes_root / "shapes"


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_fapn_config(cfg)
    return cfg
