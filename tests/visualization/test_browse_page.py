"""Training samples with their labels drawn on them."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from PIL import Image

from fapn_d2.config.loading import load_config
from fapn_d2.data import generate_shapes
from fapn_d2.visualization.browse_page import browse
from fapn_d2.visualization.segments import from_sample

TOOL = Path(__file__).resolve().parents[2] / "tools" / "browse_data.py"


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    generate_shapes(tmp_path / "root" / "shapes", splits={"train": 3, "val": 1}, size=(64, 96))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "root"))


@pytest.mark.parametrize("kind", ["polygons", "bits", "boxes"])
def test_objects_of_a_sample(kind):
    load_config()
    instances = Instances((10, 12), gt_boxes=Boxes(torch.tensor([[2.0, 3.0, 8.0, 9.0]])), gt_classes=torch.tensor([1]))
    mask = torch.zeros(1, 10, 12, dtype=torch.bool)
    mask[0, 3:9, 2:8] = True
    if kind == "polygons":
        instances.gt_masks = PolygonMasks([[np.array([2.0, 3, 8, 3, 8, 9, 2, 9])]])
    elif kind == "bits":
        instances.gt_masks = BitMasks(mask)
    found = from_sample({"image": torch.zeros(3, 10, 12), "instances": instances}, "shapes_train")
    (segment,) = found.segments.values()
    assert segment.name == MetadataCatalog.get("shapes_train").thing_classes[1] and segment.box == (2, 3, 8, 9)
    assert np.array_equal(found.labels, np.zeros((10, 12)) if kind == "boxes" else mask[0].int())


def test_regions_of_a_sample(camvid):
    labels = torch.full((4, 6), 11)
    labels[:2] = 3
    found = from_sample({"image": torch.zeros(3, 4, 6), "sem_seg": labels}, "camvid_sem_seg_train", ignore_value=11)
    assert [s.name for s in found.segments.values()] == ["Road"] and (found.labels > 0).sum() == 12


def test_the_tool(shapes, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("browse_tool", TOOL)
    spec.loader.exec_module(tool := importlib.util.module_from_spec(spec))
    config = str(TOOL.parents[1] / "configs" / "quickstart" / "own_objects.yaml")
    sizes = ("INPUT.MIN_SIZE_TRAIN", "(48,)")
    tool.main(["--config-file", config, "--number", "2", "--output", str(tmp_path / "out"), *sizes])
    assert Image.open(tmp_path / "out" / "2.png").size == (72, 48)  # (W, H) after augmentation
    assert (tmp_path / "out" / "index.html").read_text().count("48 x 72 pixels") == 2
    with pytest.raises(SystemExit) as end:
        tool.main(["--config-file", config, "--class", "stra", "--output", str(tmp_path / "out")])
    assert end.value.code == 2 and "own_train has no class 'stra'; nearest: star" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"DATASETS.TRAIN is empty"):
        browse(load_config(), tmp_path)
