"""Two processes on the CPU give what one gives, and one that has seen no image takes part."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm

from fapn_d2.engine.launching import launch
from fapn_d2.evaluation.cityscapes.instance import CityscapesInstanceEvaluator
from fapn_d2.evaluation.cityscapes.semantic import CityscapesSemSegEvaluator
from fapn_d2.evaluation.coco import FastCOCOEvaluator
from fapn_d2.evaluation.panoptic import PanopticEvaluator
from fapn_d2.evaluation.proposals import BoxProposalEvaluator
from fapn_d2.evaluation.sem_seg import SemSegEvaluator
from tests.datasets.programs import run
from tests.toys.cityscapes import make_tree

pytest.importorskip("cityscapesscripts")
NAME, SIZE, IMAGES = "toy_processes", (96, 160), 5


def register(root: Path) -> None:
    pictures = sorted(str(path) for path in root.glob("leftImg8bit/val/*/*.png"))
    records = [
        {"file_name": p, "sem_seg_file_name": p.replace("leftImg8bit", "gtFine")[:-4] + "_labelTrainIds.png"}
        for p in pictures
    ]
    DatasetCatalog.register(NAME, lambda: records)
    from cityscapesscripts.helpers.labels import labels

    evaluated = sorted((label for label in labels if not label.ignoreInEval), key=lambda label: label.trainId)
    MetadataCatalog.get(NAME).set(
        gt_dir=str(root / "gtFine/val"),
        thing_classes=[label.name for label in evaluated],
        stuff_classes=[label.name for label in evaluated],
        thing_dataset_id_to_contiguous_id={x.id: x.trainId for x in evaluated if x.hasInstances},
        stuff_dataset_id_to_contiguous_id={x.id: x.trainId for x in evaluated if not x.hasInstances},
        ignore_label=255,
        panoptic_json=str(root / "gtFine/cityscapes_panoptic_val.json"),
        panoptic_root=str(root / "gtFine/cityscapes_panoptic_val"),
    )
    MetadataCatalog.get(f"{NAME}_boxes").set(json_file=str(root / "boxes.json"), thing_classes=["a", "b"])


def prediction(number: int) -> dict:
    """The same for an image whichever process predicts it."""
    generator = torch.Generator().manual_seed(number)
    scores = torch.rand(19, *SIZE, generator=generator)
    ids = torch.randint(1, 5, (12, 20), generator=generator).repeat_interleave(8, 0).repeat_interleave(8, 1)
    present = ids.unique().tolist()
    corner = 60 * torch.rand(6, 2, generator=generator)
    instances = Instances(
        SIZE,
        pred_boxes=Boxes(torch.cat([corner, corner + 20], dim=1)),
        pred_classes=torch.randint(0, 2, (6,), generator=generator),
        scores=torch.rand(6, generator=generator),
    )
    objects = Instances(
        SIZE,
        pred_masks=torch.stack([ids == i for i in present]),
        pred_classes=torch.tensor([10 + i for i in present]),
        scores=torch.rand(len(present), generator=generator),
    )
    segments = [{"id": i, "category_id": 10 + i, "isthing": True} for i in present]
    proposals = Instances(SIZE, proposal_boxes=instances.pred_boxes, objectness_logits=instances.scores)
    return {
        "proposals": proposals,
        "sem_seg": scores,
        "panoptic_seg": (ids, segments),
        "boxes": instances,
        "objects": objects,
    }


def evaluators(out: Path) -> dict[str, tuple[DatasetEvaluator, dict[str, str]]]:
    """Name -> (evaluator, names of the outputs that it takes)."""
    return {
        "sem_seg": (SemSegEvaluator(NAME, boundary_widths=(3, 5)), {"sem_seg": "sem_seg"}),
        "cityscapes": (CityscapesSemSegEvaluator(NAME, boundary_widths=(3,)), {"sem_seg": "sem_seg"}),
        "instances": (CityscapesInstanceEvaluator(NAME), {"instances": "objects"}),
        "panoptic": (PanopticEvaluator(NAME, str(out)), {"panoptic_seg": "panoptic_seg"}),
        "coco": (FastCOCOEvaluator(f"{NAME}_boxes"), {"instances": "boxes"}),
        "proposals": (BoxProposalEvaluator(f"{NAME}_boxes"), {"proposals": "proposals"}),
    }


def score(root: str, rounds: dict[str, list[list[int]]]) -> None:
    """In each round, each process predicts its share of the images; the first writes the scores to a folder."""
    register(Path(root))
    records = DatasetCatalog.get(NAME)
    for title, shares in rounds.items():
        results, out = {}, Path(root) / title
        for name, (evaluator, outputs) in evaluators(out).items():
            evaluator.reset()
            for number in shares[comm.get_rank()]:
                key = "_".join(Path(records[number]["file_name"]).name.split("_")[:3])
                inputs = {**records[number], "image_id": number if name in ("coco", "proposals") else key}
                given = prediction(number)
                evaluator.process([inputs], [{ours: given[theirs] for ours, theirs in outputs.items()}])
            results[name] = evaluator.evaluate()
        assert all(bool(result) == comm.is_main_process() for result in results.values())
        if comm.is_main_process():
            (out / "scores.json").write_text(json.dumps(results))


def boxes(path: Path) -> None:
    """COCO annotations with 20 boxes of two classes."""
    corners = np.random.default_rng(0).integers(0, 60, (20, 2)).tolist()
    annotations = [
        {"id": i, "image_id": i % IMAGES, "category_id": i % 2, "iscrowd": 0, "area": 400, "bbox": [*corner, 20, 20]}
        for i, corner in enumerate(corners, start=1)
    ]
    images = [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(IMAGES)]
    categories = [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}]
    content = {"images": images, "annotations": annotations, "categories": categories, "info": {}}
    path.write_text(json.dumps(content))


def test_two_processes_score_as_one(tmp_path):
    make_tree(tmp_path, images=IMAGES)
    run("prepare_cityscapes", tmp_path, "--splits", "val")
    boxes(tmp_path / "boxes.json")
    try:
        score(str(tmp_path), {"one": [list(range(IMAGES))]})
    finally:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)
        MetadataCatalog.remove(f"{NAME}_boxes")
    rounds = {"uneven": [[3], [4, 0, 2, 1]], "first has none": [[], [4, 0, 3, 2, 1]]}
    launch(score, processes=2, use_cuda=False, args=(str(tmp_path), rounds))
    expected = json.loads((tmp_path / "one/scores.json").read_text())
    for name, task, key in (
        ("cityscapes", "sem_seg", "iIoU"),
        ("sem_seg", "sem_seg", "boundary_mIoU"),
        ("instances", "segm", "AP"),
        ("panoptic", "panoptic_seg", "SQ"),
        ("coco", "bbox", "AP50"),
        ("proposals", "box_proposals", "AR@100"),
    ):
        assert expected[name][task][key] >= 0, name
    for title in rounds:
        found = json.loads((tmp_path / title / "scores.json").read_text())
        assert found.keys() == expected.keys()
        for name in expected:
            for task in expected[name]:
                same = pytest.approx(expected[name][task], rel=1e-14, abs=1e-12, nan_ok=True)
                assert found[name][task] == same, (title, name)
        kept = [json.loads((tmp_path / t / "predictions.json").read_text())["annotations"] for t in ("one", title)]
        assert sorted(kept[0], key=lambda k: k["image_id"]) == sorted(kept[1], key=lambda k: k["image_id"])
