"""One row of each kind of FPN's tables by tools/reproduce.py, small: RPN, Fast R-CNN on its proposals, four steps."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from fapn_d2.reproduction import jobs

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("toy_rows_train", "toy_rows_val")
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.FPN.OUT_CHANNELS": 8,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "DATALOADER.NUM_WORKERS": 0,
    "DATASETS.TRAIN": "('toy_rows_train',)",
    "DATASETS.TEST": "('toy_rows_val',)",
    "SOLVER.BASE_LR": 0.001,
}


@pytest.fixture
def reproduce(tmp_path, real_images, monkeypatch):
    """A function that runs a row and returns the commands of its jobs, which run in this process."""
    for name in NAMES:
        register_coco_instances(name, {}, f"{real_images}/instances.json", f"{real_images}/photographs")
    commands = []

    def run(command):
        commands.append(" ".join(map(str, command)))
        monkeypatch.setattr(sys, "argv", [str(word) for word in command[1:]])
        try:
            runpy.run_path(command[1], run_name="__main__")
        except SystemExit as end:
            return end.code or 0
        return 0

    monkeypatch.setattr(jobs, "_run", run)
    tool = runpy.run_path(str(ROOT / "tools" / "reproduce.py"))["main"]
    options = [str(part) for pair in SMALL.items() for part in pair]

    def row(name):
        commands.clear()
        place = ["--num-gpus", "1", "--output", str(tmp_path / "out")]
        tool(["run", name, "--shrink", "0.00005", *place, "--opts", *options])
        return list(commands)

    yield row
    for name in NAMES:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_rows_run_to_their_end(reproduce, tmp_path, capsys):
    assert len(reproduce("fpn.t1.c_fpn")) == 1
    assert "fpn.t1.c_fpn, 1 run: a trial" in capsys.readouterr().out
    commands = reproduce("fpn.t2.c_fpn")  # the RPN is there: two data sets of proposals, one training
    assert [Path(command.split()[1]).stem for command in commands] == ["extract_proposals"] * 2 + ["train_net"]
    commands = reproduce("fpn.t5.fpn_r50_share")  # steps 1 and 2 are there
    expected = ["train_net", "extract_proposals", "extract_proposals", "train_net", "train_net"]
    assert [Path(command.split()[1]).stem for command in commands] == expected
    assert "--eval-only" in commands[-1] and "fpn.t5.fpn_r50_share, 1 run: a trial" in capsys.readouterr().out
    assert reproduce("fpn.t5.fpn_r50_share") == []

    records = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("*/seed1/record-*.json")]
    assert len(records) == 5 and all({"bbox", "box_proposals"} & r["results"].keys() for r in records)
    (step_2,) = _weights(tmp_path, "fpn.t2.c_fpn")
    (joined,) = _weights(tmp_path, "fpn.t5.fpn_r50_share")
    shared = {name for name in step_2 if name.startswith("backbone.")}
    assert shared and all(torch.equal(step_2[name], joined[name]) for name in shared)
    assert any("running_mean" in name for name in shared)
    moved = [name for name in step_2 if name.startswith("roi_heads.") and not torch.equal(step_2[name], joined[name])]
    assert moved and any(name.startswith("proposal_generator.") for name in joined)


def test_a_row_of_segmentation_proposals(reproduce, tmp_path, capsys):
    assert len(reproduce("fpn.t6.fpn_mlp57_2xmask")) == 1
    assert "fpn.t6.fpn_mlp57_2xmask, 1 run: a trial" in capsys.readouterr().out
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "out").glob("*/seed1/record-*.json"))
    scores = record["results"]["mask_proposals"]
    assert 0 <= scores["AR@100"] <= scores["AR@1000"] <= 100


def _weights(tmp_path, row):
    for path in (tmp_path / "out").glob("*/seed1/record-*.json"):
        record = json.loads(path.read_text())
        if (record["row"], record["network"]) == (row, ""):
            yield torch.load(path.parent / "model_final.pth", weights_only=False)["model"]
