"""Average recall of box proposals: Detectron2's numbers to the bit, and a case computed by hand."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation.coco_evaluation import _evaluate_box_proposals
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO

from fapn_d2.evaluation.proposals import BoxProposalEvaluator, average_recall, match
from fapn_d2.reproduction.metrics import find

NAMES = {"": "all", "s": "small", "m": "medium", "l": "large"}


@pytest.fixture
def dataset(tmp_path):
    """write(annotations, images) -> name of a data set."""
    names = []

    def write(annotations: list[dict] | None, images: int) -> str:
        content = {"images": [{"id": i, "height": 640, "width": 640} for i in range(1, images + 1)]}
        if annotations is not None:
            numbered = [{"id": i, "category_id": 1, **a} for i, a in enumerate(annotations, start=1)]
            content |= {"annotations": numbered, "categories": [{"id": 1, "name": "a"}]}
        path = tmp_path / f"boxes{len(names)}.json"
        path.write_text(json.dumps(content))
        names.append(f"toy_proposals_{tmp_path.name}_{len(names)}")
        MetadataCatalog.get(names[-1]).json_file = str(path)
        return names[-1]

    yield write
    for name in names:
        MetadataCatalog.remove(name)


def proposals(boxes, logits) -> Instances:
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    logits = torch.as_tensor(logits, dtype=torch.float32)
    return Instances((640, 640), proposal_boxes=Boxes(boxes), objectness_logits=logits)


def ours(name: str, predictions: list[dict]) -> dict[str, float]:
    evaluator = BoxProposalEvaluator(name)
    evaluator.reset()
    for prediction in predictions:
        evaluator.process([{"image_id": prediction["image_id"]}], [{"proposals": prediction["proposals"]}])
    return evaluator.evaluate()["box_proposals"]


def detectron2s(name: str, predictions: list[dict]) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(MetadataCatalog.get(name).json_file)
    return {
        f"AR{letter}@{limit}": 100 * _evaluate_box_proposals(predictions, truth, area=area, limit=limit)["ar"].item()
        for limit in (100, 1000)
        for letter, area in NAMES.items()
    }


def random_images(rng: np.random.Generator, images: int) -> tuple[list[dict], list[dict]]:
    """Annotations and proposals: crowds, images without objects or without proposals, more objects than proposals, one
    proposal that is the best of several objects, equal scores and equal overlaps."""
    annotations, predictions = [], []
    for image in range(1, images + 1):
        objects = int(rng.integers(0, 12))
        corners, sides = rng.uniform(0, 300, (objects, 2)), rng.choice([8, 32, 33.5, 60, 96, 200], (objects, 2))
        if image % 3 == 0:
            corners = np.round(corners / 40) * 40  # objects that are nearly the same
        for (x, y), (w, h) in zip(corners.tolist(), sides.tolist()):
            area = float(w * h * rng.choice([1, 1, 0.6]))
            crowd = int(rng.random() < 0.15)
            annotations.append({"image_id": image, "bbox": [x, y, w, h], "area": area, "iscrowd": crowd})
        count = int(rng.choice([0, 1, 3, 40, 150, 1200]))
        boxes = np.concatenate([rng.uniform(0, 300, (count, 2)), rng.uniform(4, 200, (count, 2))], axis=1)
        if objects and count:
            near = rng.random(count) < 0.5
            chosen = rng.integers(0, objects, near.sum())
            moved = np.concatenate([corners, sides], axis=1)[chosen]
            boxes[near] = moved + np.round(rng.normal(0, 4, moved.shape))
        boxes[:, 2:] = boxes[:, :2] + np.maximum(boxes[:, 2:], 0)
        found = proposals(boxes, rng.integers(0, 20, count) / 4 if image % 2 else rng.normal(0, 1, count))
        predictions.append({"image_id": image, "proposals": found})
    return annotations, predictions


@pytest.mark.parametrize("seed", range(4))
def test_equal_to_detectron2(dataset, seed):
    annotations, predictions = random_images(np.random.default_rng(seed), images=60)
    name = dataset(annotations, 60)
    expected = detectron2s(name, predictions)
    assert ours(name, predictions) == pytest.approx(expected, abs=1e-12, rel=0)
    assert list(ours(name, predictions)) == list(expected)
    assert all(1 < value < 99 for value in expected.values())
    assert expected["AR@100"] < expected["AR@1000"]


def test_by_hand(dataset):
    """Two objects count: a proposal equals the first, one of 100 x 80 pixels is inside the second (IoU 0.8).

    The second is recalled at 0.5, 0.55, ..., 0.8: 7 of 10 thresholds. AR is (10 + 7) / 20. The first object has 1024
    pixels, which is small and medium.
    """
    name = dataset(
        [
            {"image_id": 1, "bbox": [10, 10, 32, 32], "area": 1024, "iscrowd": 0},
            {"image_id": 1, "bbox": [100, 100, 100, 100], "area": 10000, "iscrowd": 0},
            {"image_id": 1, "bbox": [300, 300, 200, 200], "area": 40000, "iscrowd": 1},
            {"image_id": 2, "bbox": [0, 0, 50, 50], "area": 2500, "iscrowd": 0},  # has no proposal: is not counted
        ],
        images=2,
    )
    predictions = [
        {"image_id": 1, "proposals": proposals([[10, 10, 42, 42], [100, 100, 200, 180]], [2.0, 1.0])},
        {"image_id": 2, "proposals": proposals([], [])},
    ]
    scores = ours(name, predictions)
    assert scores == pytest.approx(detectron2s(name, predictions), abs=1e-12)
    for limit in (100, 1000):
        found = [scores[f"AR{letter}@{limit}"] for letter in ("", "s", "m", "l")]
        assert found == pytest.approx([85, 100, 100, 70], abs=1e-4)
    assert find({"box_proposals": scores}, "AR1k_l") == pytest.approx(70, abs=1e-4)


def test_two_objects_with_one_best_proposal():
    """Both objects overlap the first proposal most; the better of them gets it, the other the second proposal."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8]])
    found = match(proposals([[0, 0, 10, 10], [0, 0, 10, 4]], [1.0, 0.0]), boxes, torch.tensor([100.0, 80.0]))
    assert sorted(found["AR@100"].tolist()) == pytest.approx([0.5, 1.0])  # 40 of 80, not 80 of 100
    assert found["ARl@100"].tolist() == []


def test_no_objects(dataset):
    name = dataset([], images=1)
    expected = detectron2s(name, [{"image_id": 1, "proposals": proposals([[0, 0, 5, 5]], [0.0])}])
    assert np.isnan(expected["AR@100"]) and np.isnan(average_recall(np.zeros(0, np.float32)))


def test_a_split_without_annotations_has_no_numbers(dataset):
    name = dataset(None, images=1)
    assert ours(name, [{"image_id": 1, "proposals": proposals([[0, 0, 5, 5]], [0.0])}]) == {}
