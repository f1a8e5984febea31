"""Rows of Panoptic FPN's Table 3 from files in Cityscapes' format to scores, by the command that users type."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.datasets.programs import run
from tests.toys.cityscapes import make_tree

ROOT = Path(__file__).resolve().parents[2]
JOINT = {"segm", "sem_seg", "panoptic_seg"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "val"):
        make_tree(folder / "cityscapes", split=split, images=2, seed=len(split))
    run("prepare_cityscapes", folder / "cityscapes", "--splits", "train", "val")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "tasks"),
    [
        ("t3a.cityscapes_r50_fpn_x2", JOINT | {"panoptic_seg_semantic_alone"}),
        ("t3c.cityscapes_alternate", JOINT),
        ("t3d.cityscapes_grouped", JOINT),
    ],
)
def test_rows_in_small(row, tasks, data, tmp_path):
    """Two or three iterations of a narrow ResNet on random boxes."""
    pytest.importorskip("cityscapesscripts")
    command = [sys.executable, str(ROOT / "tools" / "reproduce.py"), "run", f"panoptic_fpn.{row}"]
    command += ["--shrink", "0.00002", "--num-gpus", "1", "--output", str(tmp_path)]
    command += ["--opts", "MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0"]
    command += [
        "MODEL.RESNETS.DEPTH",
        "50",
        "MODEL.RESNETS.WIDTH_PER_GROUP",
        "8",
        "MODEL.RESNETS.RES2_OUT_CHANNELS",
        "32",
    ]
    command += ["MODEL.RPN.POST_NMS_TOPK_TEST", "20", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "16"]
    command += ["SOLVER.BASE_LR", "0.00001"]
    environment = os.environ | {"DETECTRON2_DATASETS": str(data)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"panoptic_fpn.{row}, 1 run: a trial, not comparable" in done.stdout
    records = [json.loads(path.read_text()) for path in tmp_path.glob("*/seed1/record-*.json")]
    (scored,) = [record for record in records if record["network"] in ("", "merged")]
    assert scored["results"].keys() == tasks
    assert {"PQ", "PQ_th", "PQ_st"} <= scored["results"]["panoptic_seg"].keys()
    assert {"IoU", "iIoU"} <= scored["results"]["sem_seg"].keys() and "AP50" in scored["results"]["segm"]
    assert len(records) == (3 if "x2" in row else 1)
