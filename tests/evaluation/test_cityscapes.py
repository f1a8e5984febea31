"""The official Cityscapes scripts run with this numpy, and under the name that Detectron2's main branch uses."""

import importlib
import sys

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from PIL import Image

from fapn_d2.evaluation.cityscapes import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    working_cityscapesscripts,
)

pytest.importorskip("cityscapesscripts.helpers.csHelpers", exc_type=ImportError)
ROAD, CAR = 7, 26  # label ids; their train ids are 0 and 13


@pytest.fixture
def city(tmp_path):
    """One image of 24 x 30 pixels: road, and a car of 10 x 12 pixels (the scripts leave out objects below 100)."""
    folder = tmp_path / "gtFine" / "val" / "town"
    folder.mkdir(parents=True)
    ids = np.full((24, 30), ROAD, np.uint8)
    ids[2:12, 3:15] = CAR
    instances = ids.astype(np.uint16)
    instances[ids == CAR] = CAR * 1000
    Image.fromarray(ids).save(folder / "town_000000_000000_gtFine_labelIds.png")
    Image.fromarray(instances).save(folder / "town_000000_000000_gtFine_instanceIds.png")
    name = f"toy_cityscapes_{tmp_path.name}"
    MetadataCatalog.get(name).set(gt_dir=str(tmp_path / "gtFine" / "val"), thing_classes=["car"])
    yield name
    MetadataCatalog.remove(name)


def car_at(rows: slice, columns: slice) -> torch.Tensor:
    scores = torch.zeros(19, 24, 30)
    scores[0] = 1
    scores[13, rows, columns] = 2
    return scores


INPUT = {"file_name": "town_000000_000000_leftImg8bit.png"}


def test_semantic_scores(city):
    evaluator = CityscapesSemSegEvaluator(city)
    evaluator.reset()
    evaluator.process([INPUT], [{"sem_seg": car_at(slice(2, 12), slice(3, 18))}])
    result = evaluator.evaluate()["sem_seg"]
    road, car = (720 - 150) / (720 - 120), 120 / 150
    assert result["IoU"] == pytest.approx(100 * (road + car) / 2)


def test_instance_scores(city, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    masks = torch.zeros(1, 24, 30, dtype=torch.bool)
    masks[0, 2:12, 3:22] = True  # IoU 120 / 190 = 0.63: right at thresholds 0.5, 0.55 and 0.6 of ten
    found = Instances((24, 30), pred_classes=torch.zeros(1, dtype=torch.long), scores=torch.ones(1), pred_masks=masks)
    evaluator = CityscapesInstanceEvaluator(city)
    evaluator.reset()
    evaluator.process([INPUT], [{"instances": found}])
    result = evaluator.evaluate()["segm"]
    assert result["AP50"] == pytest.approx(100) and result["AP"] == pytest.approx(30)
    assert not (tmp_path / "matches.json").exists()


def test_what_is_lent_is_taken_back():
    had_in1d = hasattr(np, "in1d")
    name = "deeplearning.projects.cityscapesApi.cityscapesscripts"
    with working_cityscapesscripts():
        labels = importlib.import_module(f"{name}.helpers.labels")
        official = importlib.import_module("cityscapesscripts.helpers.labels")
        assert labels.trainId2label is official.trainId2label
        script = importlib.import_module(f"{name}.evaluation.evalPixelLevelSemanticLabeling")
        assert script is importlib.import_module("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
        assert np.in1d(np.array([1, 2]), [2]).tolist() == [False, True]
    assert not any(module.startswith("deeplearning") for module in sys.modules)
    assert hasattr(np, "in1d") == had_in1d
    assert scoring_writes()


def scoring_writes() -> bool:
    scripts = importlib.import_module("cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling")
    return scripts.writeDict2JSON is importlib.import_module("cityscapesscripts.helpers.csHelpers").writeDict2JSON
