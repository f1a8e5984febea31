"""Semantic scores beside Detectron2's evaluator, hand numbers, and messages."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator as Detectron2SemSegEvaluator
from PIL import Image

from fapn_d2.evaluation import SemSegEvaluator
from fapn_d2.evaluation.sem_seg import class_map, confusion_matrix, scores

CLASSES = ["sky", "road", "car", "never"]


@pytest.fixture
def dataset(tmp_path, request):
    """Name of a data set of three labelled images of odd sizes; one class never occurs in the labels."""
    name = f"toy_sem_seg_{request.node.name}"
    records = []
    generator = np.random.default_rng(0)
    for n, size in enumerate(((5, 7), (1, 9), (6, 4))):
        label = generator.integers(0, 3, size=size).astype(np.uint8)
        label[generator.random(size) < 0.2] = 255
        Image.fromarray(label).save(tmp_path / f"{n}.png")
        records.append({"file_name": f"{n}.jpg", "sem_seg_file_name": str(tmp_path / f"{n}.png"), "size": size})
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(stuff_classes=CLASSES, ignore_label=255, evaluator_type="sem_seg")
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def read(path: str, dtype: type) -> np.ndarray:
    """Detectron2's own reading asks numpy for a copy in a way that numpy 2 refuses."""
    return np.asarray(Image.open(path)).astype(dtype)


def predictions(name: str):
    for record in DatasetCatalog.get(name):
        yield record, {"sem_seg": torch.randn(len(CLASSES), *record["size"])}


def test_equals_detectron2(dataset, tmp_path):
    ours, theirs = (
        SemSegEvaluator(dataset, str(tmp_path / "out")),
        Detectron2SemSegEvaluator(dataset, False, sem_seg_loading_fn=read),
    )
    theirs.reset()
    for record, output in predictions(dataset):
        ours.process([record], [output])
        theirs.process([record], [output])
    result, expected = ours.evaluate()["sem_seg"], theirs.evaluate()["sem_seg"]
    expected = {name: value for name, value in expected.items() if "B-Iou" not in name and "Boundary" not in name}
    assert set(result) == set(expected)
    for name, value in expected.items():
        assert result[name] == pytest.approx(value, abs=1e-10, nan_ok=True), name
    assert np.isnan(result["IoU-never"]) and result["mIoU"] > 0
    stored = json.loads((tmp_path / "out" / "sem_seg_evaluation.json").read_text())
    assert stored["classes"] == CLASSES and np.sum(stored["confusion"]) == sum(
        int((np.asarray(Image.open(r["sem_seg_file_name"])) != 255).sum()) for r in DatasetCatalog.get(dataset)
    )


def test_reset_forgets(dataset):
    evaluator = SemSegEvaluator(dataset)
    for record, output in predictions(dataset):
        evaluator.process([record], [output])
    evaluator.reset()
    assert np.isnan(evaluator.evaluate()["sem_seg"]["mIoU"])


def test_class_map_is_argmax():
    scores = torch.randn(7, 20, 30).round(decimals=1)  # with ties
    assert torch.equal(class_map(scores), scores.argmax(dim=0))


def test_hand_numbers():
    truth = torch.tensor([[0, 0, 0, 1], [1, 2, 2, 2]])  # 2 is "not labelled" here
    prediction = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1]])
    matrix = confusion_matrix(prediction, truth, 2)
    assert matrix.tolist() == [[2, 1], [1, 1]]
    result = scores(matrix.numpy(), ["a", "b"])
    assert result["IoU-a"] == pytest.approx(100 * 2 / 4) and result["IoU-b"] == pytest.approx(100 * 1 / 3)
    assert result["mIoU"] == pytest.approx(100 * (1 / 2 + 1 / 3) / 2)
    assert result["fwIoU"] == pytest.approx(100 * (3 / 5 * 1 / 2 + 2 / 5 * 1 / 3))
    assert result["mACC"] == pytest.approx(100 * (2 / 3 + 1 / 2) / 2) and result["pACC"] == pytest.approx(60)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.full((5, 7), 9, np.uint8), r"label .*0.png holds \[9\]; allowed are 0 to 3 and 255 \(not labelled\)"),
        (np.zeros((5, 6), np.uint8), r"label .*0.png is \(5, 6\), its prediction \(5, 7\)"),
        (np.zeros((5, 7, 3), np.uint8), r"label .*0.png is an image of mode RGB; allowed are single-channel"),
        (b"no image", r"label .*0.png cannot be read"),
    ],
)
def test_bad_labels_are_named(dataset, label, message):
    record, output = next(predictions(dataset))
    if isinstance(label, bytes):
        with open(record["sem_seg_file_name"], "wb") as file:
            file.write(label)
    else:
        Image.fromarray(label).save(record["sem_seg_file_name"])
    with pytest.raises(ValueError, match=message):
        SemSegEvaluator(dataset).process([record], [output])


def test_other_number_of_classes(dataset):
    record, _ = next(predictions(dataset))
    with pytest.raises(ValueError, match=r"predicts 5 classes, the data set has 4: set MODEL.*NUM_CLASSES 4"):
        SemSegEvaluator(dataset).process([record], [{"sem_seg": torch.randn(5, 5, 7)}])


def test_data_set_without_semantic_labels(dataset):
    DatasetCatalog.get(dataset)[1].pop("sem_seg_file_name")
    with pytest.raises(ValueError, match="images without sem_seg_file_name"):
        SemSegEvaluator(dataset)
    with pytest.raises(ValueError, match="nowhere_x names no stuff_classes"):
        SemSegEvaluator("nowhere_x")
