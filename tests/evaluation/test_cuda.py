"""Predictions on a GPU are scored as the same predictions on the CPU."""

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from tests.datasets.programs import run
from tests.evaluation import test_processes as toy
from tests.toys.cityscapes import make_tree

DEVICES = ("cpu", "cuda")


def moved(value, device: str):
    if isinstance(value, tuple):
        return tuple(moved(part, device) for part in value)
    return value.to(device) if hasattr(value, "to") else value


@pytest.mark.gpu
def test_cuda_scores_equal_those_of_the_cpu(tmp_path):
    make_tree(tmp_path, images=toy.IMAGES)
    run("prepare_cityscapes", tmp_path, "--splits", "val")
    toy.boxes(tmp_path / "boxes.json")
    toy.register(tmp_path)
    records = DatasetCatalog.get(toy.NAME)
    scores = {}
    for device in DEVICES:
        for name, (evaluator, outputs) in toy.evaluators(tmp_path / device).items():
            evaluator.reset()
            for number, record in enumerate(records):
                given = toy.prediction(number)
                key = "_".join(record["file_name"].rpartition("/")[2].split("_")[:3])
                inputs = {**record, "image_id": number if name == "coco" else key}
                prediction = {ours: moved(given[theirs], device) for ours, theirs in outputs.items()}
                evaluator.process([inputs], [prediction])
            scores[device, name] = evaluator.evaluate()
    for (device, name), result in scores.items():
        for task in result:
            assert result[task] == pytest.approx(scores["cpu", name][task], nan_ok=True), (device, name)
    DatasetCatalog.remove(toy.NAME)
    for name in (toy.NAME, f"{toy.NAME}_boxes"):
        MetadataCatalog.remove(name)
    assert torch.cuda.is_initialized()
