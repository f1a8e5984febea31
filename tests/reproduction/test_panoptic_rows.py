"""Rows of Panoptic FPN from files in the formats of Cityscapes and COCO to scores, by the command that users type."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.datasets.programs import run
from tests.toys.cityscapes import make_tree
from tests.toys.coco import write_coco_panoptic

ROOT = Path(__file__).resolve().parents[2]
JOINT = {"segm", "sem_seg", "panoptic_seg"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "val"):
        write_coco_panoptic(folder, split=split)
        make_tree(folder / "cityscapes", split=split, images=2, seed=len(split))
    run("prepare_cityscapes", folder / "cityscapes", "--splits", "train", "val")
    return folder


SMALL = {
    "MODEL.WEIGHTS": "",
    "MODEL.DEVICE": "cpu",
    "DATALOADER.NUM_WORKERS": 0,
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "SOLVER.BASE_LR": 0.00001,
}


@pytest.fixture
def run_row(data, tmp_path):
    """A function that runs a row for a few iterations of a narrow ResNet; network -> results."""

    def call(row):
        pytest.importorskip("cityscapesscripts")
        command = [sys.executable, str(ROOT / "tools" / "reproduce.py"), "run", f"panoptic_fpn.{row}"]
        command += ["--shrink", "0.00002", "--num-gpus", "1", "--output", str(tmp_path), "--opts"]
        command += [str(part) for pair in SMALL.items() for part in pair]
        environment = os.environ | {"DETECTRON2_DATASETS": str(data)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        assert f"panoptic_fpn.{row}, " in done.stdout and "a trial, not comparable" in done.stdout
        records = [json.loads(path.read_text()) for path in tmp_path.glob("*/seed1/record-*.json")]
        return {record["network"]: record["results"] for record in records}

    return call


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "tasks"),
    [
        ("t3a.cityscapes_r50_fpn_x2", JOINT | {"panoptic_seg_semantic_alone"}),
        ("t3c.cityscapes_alternate", JOINT),
        ("t3d.cityscapes_grouped", JOINT),
    ],
)
def test_rows_in_small(row, tasks, run_row):
    """Two or three iterations on random boxes."""
    results = run_row(row)
    (scored,) = [found for network, found in results.items() if network in ("", "merged")]
    assert scored.keys() == tasks
    assert {"PQ", "PQ_th", "PQ_st"} <= scored["panoptic_seg"].keys()
    assert {"IoU", "iIoU"} <= scored["sem_seg"].keys() and "AP50" in scored["segm"]
    assert len(results) == (3 if "x2" in row else 1)


@pytest.mark.slow
def test_a_joint_row_of_coco_in_small(run_row):
    (scored,) = run_row("t2a.lambda_s_0_5").values()
    # where no object is found, Detectron2 leaves the scores of masks out
    assert scored.keys() | {"segm"} == JOINT | {"bbox"}
    assert {"PQ", "PQ_th", "PQ_st"} <= scored["panoptic_seg"].keys() and "mIoU" in scored["sem_seg"]


@pytest.mark.slow
def test_the_semantic_branch_on_both_data_sets_in_small(run_row):
    results = run_row("t1c.width64")
    assert results.keys() == {"coco", "cityscapes"}
    assert "mIoU" in results["coco"]["sem_seg"] and "IoU" in results["cityscapes"]["sem_seg"]
