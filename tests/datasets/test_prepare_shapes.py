"""The generated data set in another size."""

import pytest
from PIL import Image

from tests.datasets.programs import program


def test_shapes_of_another_size(tmp_path, capsys, monkeypatch):
    shapes = program("prepare_shapes")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    shapes.main(["--train", "2", "--val", "1", "--size", "48", "80", "--seed", "3"])
    assert "2 images for train, 1 for val, 48 x 80 pixels (H x W)" in capsys.readouterr().out
    assert Image.open(tmp_path / "shapes/val/000001.jpg").size == (80, 48)
    with pytest.raises(SystemExit, match="remove it to generate"):
        shapes.main([])
