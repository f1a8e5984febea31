"""tools/submission.py as users run it."""

import os
import runpy
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from fapn_d2.config.loading import load_config
from fapn_d2.engine.trainer import evaluate
from tests.evaluation.submission import toys
from tests.toys.training import ToySegmentor, toy_config

pytest.importorskip("cityscapesscripts")
TOOL = Path(__file__).resolve().parents[2] / "tools" / "submission.py"


@pytest.fixture
def run(monkeypatch, capsys):
    """The tool in this process: (exit code, what it printed)."""
    monkeypatch.delenv("FAPN_DEBUG", raising=False)

    def call(*words) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, words)])
        code = 0
        try:
            runpy.run_path(str(TOOL), run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        printed = capsys.readouterr()
        return code, printed.err + printed.out  # the report comes last

    return call


@pytest.fixture
def regions(tmp_path):
    """(name of a data set with 65 classes, a config file of a small network, its weights)."""
    name = toys.make_label_images(tmp_path / "data", 65, 65)
    cfg = toy_config(
        tmp_path / "out",
        *("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "65", "MODEL.SEM_SEG_HEAD.IGNORE_VALUE", "65", "INPUT.MIN_SIZE_TEST", "0"),
        *("DATASETS.TEST", f"('{name}',)"),
    )
    torch.save({"model": ToySegmentor(cfg).state_dict()}, tmp_path / "model.pth")
    (tmp_path / "toy.yaml").write_text(cfg.dump())
    yield name, tmp_path / "toy.yaml", tmp_path / "model.pth"
    toys.remove(name)


def test_write_and_check(regions, run, tmp_path):
    name, config, weights = regions
    words = ("write", "--task", "vistas", "--name", "Toy", "--config-file", config, "--dataset", name)
    words = (*words, "--output", tmp_path / "sent")
    code, said = run(*words, "--weights", weights)
    assert code == 0, said
    assert "remark: the server's split val has 2000 images" in said and said.rstrip().endswith("ready for the server")
    archive = tmp_path / "sent" / "vistas_val_Toy.zip"
    assert "Wrote" in said and "kB" in said
    assert run("check", archive)[0] == 0
    assert run("check", archive, "--images", name, "--weights", weights)[0] == 0
    listed = tmp_path / "names.txt"
    listed.write_text("images/other.jpg\n")
    code, said = run("check", archive, "--images", listed)
    assert code == 2 and "a file belongs to no image of the split (3 times)" in said
    alone = tmp_path / "alone" / archive.name
    alone.parent.mkdir()
    shutil.copy(archive, alone)
    code, said = run("check", alone)
    assert code == 2 and "name it by --task and --split" in said
    with zipfile.ZipFile(alone, "a") as file:
        file.writestr("__MACOSX/x", "x")
    code, said = run("check", alone, "--task", "vistas", "--split", "val", "--images", name)
    assert code == 2 and said.rstrip().endswith("not ready: 1 problem")
    assert "1. a __MACOSX folder or other files of the operating system are in the zip" in said
    future = tmp_path / "future.pth"
    future.write_text("")
    os.utime(future, (4e9, 4e9))
    assert "the newest file is older than" in run("check", archive, "--weights", future)[1]


def test_from_kept_predictions(regions, run, tmp_path):
    """The config beside the run says what TEST.SUBMISSION is."""
    name, config, weights = regions
    words = ("--task", "vistas", "--name", "Toy", "--dataset", name)
    assert run("write", *words, "--config-file", config, "--weights", weights, "--output", tmp_path / "a")[0] == 0
    cfg = load_config(str(config), ["MODEL.WEIGHTS", str(weights), "TEST.KEEP_PREDICTIONS", "True"])
    evaluate(cfg)
    (tmp_path / "out" / "config.yaml").write_text(cfg.dump())
    kept = tmp_path / "out" / "inference" / name
    words = (*words, "--predictions", kept)
    code, said = run("write", *words, "--output", tmp_path / "b", "TEST.SUBMISSION.BOX_DECIMALS", 2)
    assert code == 0, said
    archives = [zipfile.ZipFile(tmp_path / folder / "vistas_val_Toy.zip") for folder in "ab"]
    assert archives[0].namelist() == archives[1].namelist() != []
    assert all(archives[0].read(n) == archives[1].read(n) for n in archives[0].namelist())
    (kept / "complete.json").unlink()
    code, said = run("write", *words, "--output", tmp_path / "c")
    assert code == 2 and "complete.json is absent" in said


def test_messages(regions, run, tmp_path):
    name, config, weights = regions
    code, said = run("check", tmp_path / "gone.zip")
    assert code == 2 and "there is no archive" in said and "Traceback" not in said
    words = ("write", "--task", "vistas", "--name", "Toy", "--config-file", config, "--dataset", name)
    code, said = run(*words, "--output", tmp_path / "x")
    assert code == 2 and "has no weights: name a checkpoint" in said
    code, said = run("write", "--task", "ade20k", *words[3:], "--weights", weights, "--output", tmp_path / "x")
    assert code == 2 and "predicts 65 classes, the server knows 150" in said
    code, said = run("write", "--task", "nonsense", "--name", "a")
    assert code == 2 and "invalid choice: 'nonsense'" in said


def test_check_without_the_data_set(regions, run, tmp_path, monkeypatch):
    """On another machine the list beside the archive takes the place of the data set."""
    name, config, weights = regions
    words = ("write", "--task", "vistas", "--name", "Toy", "--config-file", config, "--dataset", name, "--no-check")
    assert "compared with" not in run(*words, "--weights", weights, "--output", tmp_path / "sent")[1]
    shutil.rmtree(tmp_path / "data")
    code, said = run("check", tmp_path / "sent" / "vistas_val_Toy.zip")
    assert code == 0 and "compared with the list in vistas_val_Toy.zip.manifest.json (3 images)" in said
    (tmp_path / "sent" / "vistas_val_Toy.zip.manifest.json").unlink()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    code, said = run("check", tmp_path / "sent" / "vistas_val_Toy.zip", "--task", "vistas", "--split", "test")
    assert code == 2 and "Name the images by --images." in said
