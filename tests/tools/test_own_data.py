"""Own data by YAML through the tools: train, resume, score the saved config, predict without the data."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest

from fapn_d2.data.datasets import custom
from fapn_d2.data.datasets.catalog import unregister

from .test_train_net import CONFIG, run

PREDICT = Path(__file__).resolve().parents[2] / "tools" / "predict.py"
OWN = """
  CUSTOM:
    mine_train: {KIND: regions, IMAGES: camvid/train, LABELS: camvid/trainannot, CLASSES: classes.txt, IGNORE_VALUE: 11}
    mine_val: {KIND: regions, IMAGES: camvid/val, LABELS: camvid/valannot, CLASSES: classes.txt, IGNORE_VALUE: 11}
  TRAIN: [mine_train]
  TEST: [mine_val]
"""


@pytest.fixture
def _clean():
    yield
    for name in list(custom._registered):
        unregister(name)
        del custom._registered[name]


def test_train_resume_score_and_predict(camvid, tmp_path, monkeypatch, capsys, _clean):
    (camvid / "classes.txt").write_text("\n".join(f"class {n}" for n in range(11)))
    config, out = tmp_path / "mine.yaml", tmp_path / "out"
    text = CONFIG.replace("DATASETS: {TRAIN: [camvid_sem_seg_train], TEST: [camvid_sem_seg_val]}", "DATASETS:" + OWN)
    config.write_text(text.replace("NUM_CLASSES: 11, IGNORE_VALUE: 11, ", ""))
    assert run(monkeypatch, "--config-file", config, "OUTPUT_DIR", out, "SOLVER.MAX_ITER", 1) == 0
    assert "MODEL.SEM_SEG_HEAD.NUM_CLASSES is 11: data set mine_train has 11 classes" in (out / "log.txt").read_text()
    assert run(monkeypatch, "--config-file", config, "--resume", "OUTPUT_DIR", out, "SOLVER.MAX_ITER", 2) == 0
    trained = json.loads((out / "results.json").read_text())
    saved = ("--config-file", out / "config.yaml", "--eval-only", "OUTPUT_DIR", tmp_path / "scored")
    assert run(monkeypatch, *saved, "MODEL.WEIGHTS", out / "model_final.pth") == 0
    assert json.loads((tmp_path / "scored" / "results.json").read_text()) == trained

    photographs = tmp_path / "photographs"
    shutil.copytree(camvid / "camvid" / "val", photographs)
    shutil.rmtree(camvid)
    for name in ("mine_train", "mine_val"):  # as in a new process
        unregister(name)
    custom._registered.clear()
    spec = importlib.util.spec_from_file_location("predict_tool", PREDICT)
    spec.loader.exec_module(tool := importlib.util.module_from_spec(spec))
    words = ("--weights", out / "model_final.pth", "--input", photographs, "--output", tmp_path / "predicted")
    monkeypatch.setattr(sys, "argv", [str(PREDICT)])
    tool.main(list(map(str, words)))
    assert len(list((tmp_path / "predicted").glob("*.png"))) >= 6
    capsys.readouterr()
    assert run(monkeypatch, "--config-file", config, "--import", tmp_path / "no.py", "OUTPUT_DIR", out) == 2
    assert "no.py: the file does not exist" in capsys.readouterr().err
