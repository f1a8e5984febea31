"""COCO scores by hotcoco equal those of pycocotools, for every number that Detectron2 reports."""

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances

from fapn_d2.evaluation import coco
from fapn_d2.evaluation.coco import FastCOCOEvaluator


@pytest.fixture
def dataset(real_images):
    """(name, annotations) of 24 real images with 280 objects and crowds."""
    path = real_images / "instances_of_more_images.json"
    name = "toy_coco_tiny_val"
    annotations = json.loads(path.read_text())
    ids = [c["id"] for c in annotations["categories"]]
    MetadataCatalog.get(name).set(
        json_file=str(path),
        thing_classes=[c["name"] for c in annotations["categories"]],
        thing_dataset_id_to_contiguous_id={i: n for n, i in enumerate(ids)},
    )
    yield name, annotations
    MetadataCatalog.remove(name)


def predictions(annotations: dict, images: int, seed: int = 0) -> list[tuple[dict, Instances]]:
    """True objects moved by some pixels, some doubled, some lost, some of another class; scores with ties."""
    rng = np.random.default_rng(seed)
    contiguous = {c["id"]: n for n, c in enumerate(annotations["categories"])}
    batch = []
    for image in annotations["images"][:images]:
        height, width = image["height"], image["width"]
        masks, classes = [], []
        for truth in (a for a in annotations["annotations"] if a["image_id"] == image["id"]):
            shape = truth["segmentation"]
            rles = mask_util.frPyObjects(shape, height, width)
            mask = mask_util.decode(mask_util.merge(rles) if isinstance(rles, list) else rles).astype(bool)
            for _ in range(rng.integers(0, 3)):
                masks.append(np.roll(mask, rng.integers(-4, 5, 2), (0, 1)))
                right = rng.random() < 0.8
                classes.append(contiguous[truth["category_id"]] if right else int(rng.integers(len(contiguous))))
        masks = torch.from_numpy(np.stack(masks) if masks else np.zeros((0, height, width), bool))
        instances = Instances((height, width), pred_masks=masks, pred_classes=torch.tensor(classes, dtype=torch.long))
        instances.pred_boxes = Boxes(torch.tensor([_box(m.numpy()) for m in masks]).reshape(-1, 4).float())
        instances.scores = torch.from_numpy(rng.integers(1, 20, len(masks)) / 20).float()
        batch.append(({"image_id": image["id"], "file_name": image["file_name"]}, instances))
    return batch


def _box(mask: np.ndarray) -> list[int]:
    y, x = np.nonzero(mask)
    return [x.min(), y.min(), x.max() + 1, y.max() + 1] if len(x) else [0, 0, 1, 1]


def run(evaluator, batch, **kwargs) -> dict:
    evaluator.reset()
    for inputs, instances in batch:
        evaluator.process([inputs], [{"instances": instances}])
    return evaluator.evaluate(**kwargs)


def assert_equal(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    for task in theirs:
        assert list(ours[task]) == list(theirs[task])
        assert ours[task] == pytest.approx(theirs[task], abs=1e-9, nan_ok=True), task


@pytest.fixture
def hotcoco():
    return pytest.importorskip("hotcoco")


def test_equal_to_pycocotools(dataset, hotcoco, tmp_path):
    name, annotations = dataset
    batch = predictions(annotations, images=20)
    official = COCOEvaluator(name, output_dir=str(tmp_path / "official"), use_fast_impl=False)
    theirs = run(official, batch)
    ours = run(FastCOCOEvaluator(name, output_dir=str(tmp_path / "fast")), batch)
    assert_equal(ours, theirs)
    assert set(ours) == {"bbox", "segm"}
    assert all(1 < ours[task][size] < 99 for task in ours for size in ("AP", "APs", "APm", "APl"))
    files = [json.loads((tmp_path / d / "coco_instances_results.json").read_text()) for d in ("official", "fast")]
    assert files[0] == files[1]


def test_equal_on_some_images_and_with_other_limits(dataset, hotcoco):
    name, annotations = dataset
    batch = predictions(annotations, images=12, seed=1)
    chosen = [inputs["image_id"] for inputs, _ in batch[:7]]
    options = {"tasks": ("bbox",), "max_dets_per_image": 300}
    theirs = run(COCOEvaluator(name, use_fast_impl=False, **options), batch, img_ids=chosen)
    assert_equal(run(FastCOCOEvaluator(name, **options), batch, img_ids=chosen), theirs)


def test_pycocotools_steps_in(dataset, monkeypatch):
    name, annotations = dataset
    batch = predictions(annotations, images=3)
    monkeypatch.setattr(coco, "hotcoco_installed", lambda: False)
    monkeypatch.setattr(FastCOCOEvaluator, "_score", None)  # would fail if it were called
    theirs = run(COCOEvaluator(name, use_fast_impl=False), batch)
    assert_equal(run(FastCOCOEvaluator(name, use_fast_impl=False), batch), theirs)


def test_annotations_that_hotcoco_cannot_read(hotcoco, tmp_path, caplog):
    """Names as image ids, which pycocotools allows."""
    box = {"image_id": "a.jpg", "category_id": 1, "bbox": [1, 1, 5, 5]}
    annotations = {
        "info": {},
        "images": [{"id": "a.jpg", "height": 9, "width": 9}],
        "annotations": [{"id": 1, "area": 25, "iscrowd": 0, **box}],
        "categories": [{"id": 1, "name": "a"}],
    }
    (tmp_path / "names.json").write_text(json.dumps(annotations))
    name = "toy_coco_names"
    MetadataCatalog.get(name).set(json_file=str(tmp_path / "names.json"), thing_classes=["a"])
    MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id = {1: 0}
    found = Instances((9, 9), pred_classes=torch.zeros(1).long(), scores=torch.ones(1))
    found.pred_boxes = Boxes(torch.tensor([[1.0, 1, 6, 6]]))
    ours = run(FastCOCOEvaluator(name, use_fast_impl=False), [({"image_id": "a.jpg"}, found)])
    assert ours["bbox"]["AP"] == pytest.approx(100)
    assert "hotcoco cannot read" in caplog.text and "pycocotools scores instead" in caplog.text
    MetadataCatalog.remove(name)


def test_nothing_found(dataset):
    name, annotations = dataset
    empty = Instances(
        (9, 9), pred_boxes=Boxes(torch.zeros(0, 4)), pred_classes=torch.zeros(0).long(), scores=torch.zeros(0)
    )
    ours = run(FastCOCOEvaluator(name), [({"image_id": annotations["images"][0]["id"]}, empty)])
    assert np.isnan(ours["bbox"]["AP"])


def test_too_many_classes(dataset, hotcoco):
    name, annotations = dataset
    batch = predictions(annotations, images=2)
    batch[0][1].pred_classes[0] = 80
    message = r"predicts class 80; toy_coco_tiny_val has the classes 0\.\.79: set MODEL\.ROI_HEADS\.NUM_CLASSES"
    with pytest.raises(ValueError, match=message):
        run(FastCOCOEvaluator(name), batch)
