"""A row of COCO-Stuff 2017 from the download's pixel maps to a score, by the commands that users type."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.datasets.programs import run

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_table_1b_in_small(tmp_path):
    """Two iterations on noise, then six scales with mirror images; a narrow ResNet takes the place of ResNeXt-152."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for folder in (f"{split}2017", f"stuff_{split}2017_pixelmaps"):
            (tmp_path / "coco" / folder).mkdir(parents=True)
        for name in ("000000000009", "000000000025"):
            image = Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8))
            image.save(tmp_path / "coco" / f"{split}2017" / f"{name}.jpg")
            ids = np.repeat(rng.choice([0, 92, 120, 183], (40, 6)).astype(np.uint8), 10, axis=1)
            Image.fromarray(ids).save(tmp_path / "coco" / f"stuff_{split}2017_pixelmaps" / f"{name}.png")
    run("prepare_coco_stuff_2017", tmp_path / "coco")
    output = tmp_path / "out"
    command = [sys.executable, str(ROOT / "tools" / "reproduce.py"), "run", "panoptic_fpn.t1b.semantic_fpn_x152"]
    command += ["--shrink", "0.00003", "--num-gpus", "1", "--output", str(output)]
    command += ["--opts", "MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0"]
    command += ["MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.WIDTH_PER_GROUP", "1"]
    command += ["MODEL.RESNETS.RES2_OUT_CHANNELS", "32", "MODEL.FPN.OUT_CHANNELS", "32"]
    command += ["MODEL.SEM_SEG_HEAD.CONVS_DIM", "16", "SOLVER.BASE_LR", "0.0001"]
    environment = os.environ | {"DETECTRON2_DATASETS": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "a trial, not comparable" in done.stdout
    (record,) = output.glob("*/seed1/record-*.json")
    content = json.loads(record.read_text())
    assert content["iterations"] == 2
    assert {"mIoU", "fwIoU"} <= content["results"]["sem_seg"].keys()
