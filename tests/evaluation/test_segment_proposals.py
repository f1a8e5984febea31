"""Average recall of segment proposals: pycocotools' numbers, and a case computed by hand."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fapn_d2.evaluation.proposals import AREAS, LIMITS, SegmentProposalEvaluator, found_objects
from fapn_d2.layers.region_masks import RegionMasks
from fapn_d2.reproduction.metrics import find

HEIGHT, WIDTH = 120, 150


@pytest.fixture
def dataset(tmp_path):
    """write(annotations, images) -> name of a data set."""
    names = []

    def write(annotations: list[dict] | None, images: int) -> str:
        content = {"images": [{"id": i, "height": HEIGHT, "width": WIDTH} for i in range(1, images + 1)]}
        if annotations is not None:
            numbered = [{"id": i, "category_id": 1, "iscrowd": 0, **a} for i, a in enumerate(annotations, start=1)]
            content |= {"annotations": numbered, "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]}
        path = tmp_path / f"segments{len(names)}.json"
        path.write_text(json.dumps(content))
        names.append(f"toy_segments_{tmp_path.name}_{len(names)}")
        MetadataCatalog.get(names[-1]).json_file = str(path)
        return names[-1]

    yield write
    for name in names:
        MetadataCatalog.remove(name)


def proposals(boxes, logits) -> Instances:
    """Masks that fill their boxes."""
    regions = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    # between the centre of the last cell and that of the first one outside, which is 0, the border is at 0.5
    masks = RegionMasks(torch.ones(len(regions), 4, 4), regions, (HEIGHT, WIDTH), threshold=0.5)
    return Instances(
        (HEIGHT, WIDTH), objectness_logits=torch.as_tensor(logits, dtype=torch.float32), proposal_masks=masks
    )


def box_annotation(image, x, y, w, h, **more):
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    return {"image_id": image, "segmentation": [polygon], "bbox": [x, y, w, h], "area": float(w * h), **more}


def scores(name, predictions, **options):
    evaluator = SegmentProposalEvaluator(name, **options)
    for image, found in predictions:
        evaluator.process([{"image_id": image}], [{"proposals": found}])
    return evaluator.evaluate()["mask_proposals"]


def pycocotools_scores(name, predictions):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(MetadataCatalog.get(name).json_file)
        found = truth.loadRes(
            [
                {"image_id": image, "category_id": 1, "score": float(logit), "segmentation": mask}
                for image, instances in predictions
                for logit, mask in zip(instances.objectness_logits.double(), instances.proposal_masks.run_lengths())
            ]
        )
        evaluation = COCOeval(truth, found, "segm")
        evaluation.params.useCats, evaluation.params.maxDets = 0, [1, 100, 1000]
        evaluation.params.imgIds = [image for image, _ in predictions]
        evaluation.evaluate()
        evaluation.accumulate()
    recall = evaluation.eval["recall"]
    expected = {}
    for m, limit in enumerate(LIMITS, start=1):
        for a, letter in enumerate(AREAS):
            values = recall[:, 0, a, m]
            expected[f"AR{letter}@{limit}"] = 100 * values[values > -1].mean() if (values > -1).any() else np.nan
    return expected


def random_case(seed, images=8):
    """Crowds as run lengths, two classes, images without objects or without proposals, near and equal objects, sizes on
    the borders of the ranges, equal scores, more proposals than are scored."""
    rng = np.random.default_rng(seed)
    annotations, predictions = [], []
    for image in range(1, images + 1):
        placed = []
        for _ in range(int(rng.integers(0, 7))):
            w, h = rng.choice([8, 32, 40, 96], 2)
            x, y = np.round(rng.uniform(0, [WIDTH - w, HEIGHT - h]) / (10 if image % 2 else 1)) * (
                10 if image % 2 else 1
            )
            x, y = min(x, WIDTH - w), min(y, HEIGHT - h)
            annotation = box_annotation(image, *map(float, (x, y, w, h)), category_id=int(rng.integers(1, 3)))
            annotation["area"] = float(w * h * rng.choice([1, 1, 0.7]))
            if rng.random() < 0.2:
                mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
                mask[int(y) : int(y + h), int(x) : int(x + w)] = 1
                flat = mask.ravel(order="F")
                borders = np.flatnonzero(np.diff(flat, prepend=0, append=0))
                counts = np.diff(np.concatenate([[0], borders, [flat.size]]))[: len(borders) + 1]
                annotation |= {"iscrowd": 1, "segmentation": {"size": [HEIGHT, WIDTH], "counts": counts.tolist()}}
            annotations.append(annotation)
            placed.append([x, y, x + w, y + h])
        count = int(rng.choice([0, 3, 40, 130, 1100], p=[0.1, 0.2, 0.3, 0.3, 0.1]))
        corner, side = rng.uniform(-10, 110, (count, 2)), rng.uniform(6, 90, (count, 2))
        boxes = np.concatenate([corner, corner + side], axis=1)
        if placed and count:
            near = rng.integers(0, len(placed), count)
            close = rng.random(count) < 0.6
            boxes[close] = (np.array(placed)[near] + rng.normal(0, 4, (count, 4)).round())[close]
            boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 2)
        predictions.append((image, proposals(boxes, np.round(rng.normal(0, 2, count), 1))))
    return annotations, predictions


@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocotools(dataset, seed):
    annotations, predictions = random_case(seed)
    name = dataset(annotations, len(predictions) + 3)  # images that were not predicted do not count
    expected = pycocotools_scores(name, predictions)
    got = scores(name, predictions)
    assert got.keys() == expected.keys() and 20 < got["AR@1000"] < 99
    for key, value in expected.items():
        assert got[key] == pytest.approx(value, abs=1e-9, nan_ok=True), key
    assert scores(name, predictions, official=True) == pytest.approx(expected, abs=1e-9, nan_ok=True)
    # scored in two processes, each with its images
    parts = [SegmentProposalEvaluator(name) for _ in range(2)]
    for number, (image, found) in enumerate(predictions):
        parts[number % 2].process([{"image_id": image}], [{"proposals": found}])
    for key, counts in parts[0]._counts.items():
        counts += parts[1]._counts[key]
    assert parts[0].evaluate()["mask_proposals"] == pytest.approx(got, nan_ok=True)


def test_by_hand(dataset):
    annotations = [
        box_annotation(1, 10, 10, 32, 32),  # 1024 pixels: small and medium
        box_annotation(1, 60, 10, 40, 40, category_id=2),
        box_annotation(2, 0, 0, 100, 100),  # large
        box_annotation(1, 100, 60, 40, 40, iscrowd=1, segmentation={"size": [HEIGHT, WIDTH], "counts": [0, 18000]}),
    ]
    name = dataset(annotations, 2)
    # the first object but for its corners; of the second one an IoU of 0.81: 7 of 10 thresholds; nothing in image 2
    found = [(1, proposals([[60, 10, 100, 43], [10, 10, 42, 42]], [2.0, 1.0])), (2, proposals([], []))]
    got = scores(name, found)
    assert got["AR@1000"] == pytest.approx(100 * (1.0 + 0.7) / 3)
    assert [got[f"AR{letter}@1000"] for letter in "sml"] == pytest.approx([100, 85, 0])
    assert (
        find({"mask_proposals": got}, "AR") == got["AR@1000"]
        and find({"mask_proposals": got}, "ARm") == got["ARm@1000"]
    )
    assert scores(name, found[:1])["AR@1000"] == pytest.approx(85) and np.isnan(scores(name, found[:1])["ARl@100"])
    assert scores(name, found, score=False) == {} and scores(dataset(None, 2), found) == {}
    wrong = proposals([], [])
    wrong.proposal_masks.image_size = (WIDTH, HEIGHT)
    with pytest.raises(ValueError, match=r"image 1 has 120 x 150 pixels .* proposals are for 150 x 120"):
        scores(name, [(1, wrong)])


def test_proposals_choose_in_order_of_their_scores():
    # the first takes the object it fits best; the second is left without, though it fits the same one better
    overlaps = np.array([[0.8, 0.7], [0.9, 0.3]])
    assert found_objects(overlaps)[[0, 4, 6, 7, 8]].tolist() == [
        [True, False],  # 0.50
        [True, False],  # 0.70
        [True, False],  # 0.80
        [True, False],  # 0.85: only the second proposal is near enough
        [True, False],  # 0.90
    ]
    overlaps = np.array([[0.8, 0.7], [0.9, 0.6]])
    assert found_objects(overlaps)[[0, 2, 3]].tolist() == [[True, True], [True, True], [True, False]]
