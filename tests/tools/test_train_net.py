"""tools/train_net.py as users run it: exit codes, two processes, and a kill."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ..toys.training import write_camvid

TOOL = Path(__file__).resolve().parents[2] / "tools" / "train_net.py"

CONFIG = """
MODEL:
  META_ARCHITECTURE: SemanticSegmentor
  DEVICE: cpu
  WEIGHTS: ""
  BACKBONE: {NAME: build_resnet_fapn_backbone, FREEZE_AT: 0}
  RESNETS: {DEPTH: 18, NORM: GN, RES2_OUT_CHANNELS: 64, OUT_FEATURES: [res2, res3, res4, res5]}
  FPN: {IN_FEATURES: [res2, res3, res4, res5], OUT_CHANNELS: 32}
  SEM_SEG_HEAD: {NUM_CLASSES: 11, IGNORE_VALUE: 11, CONVS_DIM: 32, NORM: ""}
DATASETS: {TRAIN: [camvid_sem_seg_train], TEST: [camvid_sem_seg_val]}
INPUT: {MIN_SIZE_TRAIN: [32], MIN_SIZE_TEST: 32}
DATALOADER: {NUM_WORKERS: 0}
SOLVER: {IMS_PER_BATCH: 4, MAX_ITER: 3, BASE_LR: 0.001, WARMUP_ITERS: 0, STEPS: []}
SEED: 1
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Path of a config that trains a small FaPN on a small CamVid without unlabelled pixels."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(write_camvid(tmp_path / "datasets", images=7, void=False)))
    monkeypatch.delenv("FAPN_DEBUG", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    path = tmp_path / "toy.yaml"
    path.write_text(CONFIG)
    return path


def run(monkeypatch, *words) -> int:
    """The tool in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, words)])
    try:
        runpy.run_path(str(TOOL), run_name="__main__")
    except SystemExit as end:
        return end.code
    return 0


def start(*words) -> subprocess.Popen:
    """The tool in a process group of its own."""
    command = [sys.executable, "-W", "ignore", str(TOOL), *map(str, words)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def test_two_processes_train_and_score_as_one(config, tmp_path, monkeypatch):
    one, two = tmp_path / "one", tmp_path / "two"
    ways = ("TEST.SEM_SEG.MODE", "slide", "TEST.SEM_SEG.CROP_SIZE", (32, 24), "TEST.SEM_SEG.FLIP", True)
    ways = (*ways, "DATALOADER.SAMPLER_TRAIN", "ClassUniformSampler")
    process = start("--config-file", config, "--num-gpus", 2, "OUTPUT_DIR", two, *ways)
    assert run(monkeypatch, "--config-file", config, "OUTPUT_DIR", one, *ways) == 0
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert json.loads((two / "run.json").read_text())["processes"] == 2
    weights = [torch.load(folder / "model_final.pth")["model"] for folder in (one, two)]
    for name, expected in weights[0].items():
        torch.testing.assert_close(weights[1][name], expected, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    scores = [json.loads((folder / "results.json").read_text())["sem_seg"] for folder in (one, two)]
    counts = [
        json.loads((folder / "inference/camvid_sem_seg_val/sem_seg_evaluation.json").read_text())["confusion"]
        for folder in (one, two)
    ]
    assert sum(map(sum, counts[0])) == sum(map(sum, counts[1])) == 7 * 32 * 32  # all images, none twice
    assert scores[1]["pACC"] == pytest.approx(scores[0]["pACC"], abs=0.5)
    losses = [json.loads((folder / "metrics.json").read_text().splitlines()[0])["total_loss"] for folder in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_terminated_job_saves_and_can_be_resumed(config, tmp_path, monkeypatch):
    out = tmp_path / "out"
    # SIGTERM to the whole group, loader processes included, as schedulers send it.
    endless = ("SOLVER.MAX_ITER", 100000, "DATALOADER.NUM_WORKERS", 1)
    process = start("--config-file", config, "OUTPUT_DIR", out, *endless)
    deadline = time.time() + 240
    while not (out / "metrics.json").exists() or not (out / "metrics.json").stat().st_size:
        assert process.poll() is None and time.time() < deadline, process.communicate()[0]
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output
    last = (out / "last_checkpoint").read_text()
    done = torch.load(out / last)["iteration"] + 1
    assert last == f"model_{done - 1:07d}.pth" and done >= 20
    common = ("--resume", "--config-file", config, "OUTPUT_DIR", out, "DATASETS.TEST", "()")
    assert run(monkeypatch, *common, "SOLVER.MAX_ITER", done + 1) == 0
    assert torch.load(out / "model_final.pth")["iteration"] == done


def test_evaluation_alone(config, tmp_path, monkeypatch, capsys):
    trained, scored = tmp_path / "trained", tmp_path / "scored"
    assert run(monkeypatch, "--config-file", config, "OUTPUT_DIR", trained, "SOLVER.MAX_ITER", 1) == 0
    weights = trained / "model_final.pth"
    evaluation = ("--config-file", config, "--eval-only")
    assert run(monkeypatch, *evaluation, "OUTPUT_DIR", scored, "MODEL.WEIGHTS", weights) == 0
    assert json.loads((scored / "results.json").read_text()) == json.loads((trained / "results.json").read_text())

    fpn = ("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.WEIGHTS", weights, "OUTPUT_DIR", scored)
    assert run(monkeypatch, *evaluation, *fpn) == 2
    assert "model_final.pth does not fill the network" in capsys.readouterr().err
    assert run(monkeypatch, *evaluation, "--allow-partial", *fpn) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("SOLVER.MAXITER", "3"),
            "error: unknown config key SOLVER.MAXITER in the command line",
        ),
        (("DATASETS.TRAIN", "('camvid_sem_seg_trian',)"), "camvid_sem_seg_tr"),
        (
            ("TEST.BACKEND", "offical"),
            "error: TEST.BACKEND is 'offical'; allowed are fast, official",
        ),
        (("SOLVER.MAX_ITER", "0"), "error: SOLVER.MAX_ITER is 0; it must be at least 1"),
        (("TEST.SEM_SEG.MODE", "slices"), 'error: TEST.SEM_SEG.MODE is "slices"; allowed are'),
        (("MODEL.WEIGHTS", "none.pth"), "error: weight file none.pth does not exist"),
        (("MODEL.WEIGHTS", "torchvision://resnet19"), "error: unknown weights torchvision://resnet19; known are"),
        (
            ("MODEL.BACKBONE.NAME", "build_resnet_fpm_backbone"),
            "the registry BACKBONE does not have; nearest: build_resnet_fpn_backbone",
        ),
    ],
)
def test_mistakes_end_with_a_message_and_code_2(config, tmp_path, monkeypatch, capsys, words, message):
    assert run(monkeypatch, "--config-file", config, "OUTPUT_DIR", tmp_path / "out", *words) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err


def test_no_config_file(monkeypatch, capsys):
    assert run(monkeypatch) == 2
    err = capsys.readouterr().err
    assert "DATASETS.TRAIN is empty: name a config file" in err and "Traceback" not in err


def test_missing_config_file(tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "--config-file", tmp_path / "none.yaml") == 2
    assert "none.yaml does not exist" in capsys.readouterr().err
