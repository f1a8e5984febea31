"""The command line, and the record of a run."""

import json
import logging
import re

import pytest
import torch

from fapn_d2.config.loading import load_config
from fapn_d2.engine import argument_parser, prepare_config, setup


def arguments(*words: str):
    return argument_parser().parse_args(list(words))


def test_command_line_is_detectron2s():
    args = arguments(
        *("--config-file", "x.yaml", "--num-gpus", "2", "--num-machines", "3", "--machine-rank", "1"),
        *("--dist-url", "tcp://a:1", "--resume", "--eval-only", "--allow-partial", "--debug", "SEED", "3"),
    )
    assert (args.config_file, args.num_gpus, args.num_machines, args.machine_rank) == ("x.yaml", 2, 3, 1)
    assert args.dist_url == "tcp://a:1" and args.resume and args.eval_only and args.allow_partial and args.debug
    assert args.opts == ["SEED", "3"]
    assert arguments().dist_url == "auto" and not arguments().allow_partial


def test_record(tmp_path, caplog):
    out = tmp_path / "out"
    with caplog.at_level(logging.INFO):
        cfg = setup(arguments("OUTPUT_DIR", str(out), "MODEL.DEVICE", "cpu", "SEED", "5"))
        first = torch.rand(())
    assert cfg.is_frozen() and "CPU" in (out / "log.txt").read_text()
    record = json.loads((out / "run.json").read_text())
    assert record["seed"] == 5 and record["processes"] == 1 and record["versions"]["torch"] == torch.__version__
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?|unknown", record["commit"])
    assert "OUTPUT_DIR" in record["command"] or record["command"]  # pytest's own command line here
    again = load_config(str(out / "config.yaml"))  # the record can be run again; YAML has no tuples within tuples
    assert json.dumps(again, sort_keys=True) == json.dumps(cfg, sort_keys=True)
    assert "PyTorch" in (out / "environment.txt").read_text()

    other = setup(arguments("OUTPUT_DIR", str(tmp_path / "other"), "MODEL.DEVICE", "cpu", "SEED", "5"))
    assert torch.rand(()) == first
    again = json.loads((tmp_path / "other" / "run.json").read_text())
    assert again["config_sha256"] == record["config_sha256"]  # place and seed are not part of it
    setup(arguments("OUTPUT_DIR", str(tmp_path / "third"), "MODEL.DEVICE", "cpu", "SOLVER.BASE_LR", "1"))
    third = json.loads((tmp_path / "third" / "run.json").read_text())
    assert third["config_sha256"] != record["config_sha256"]
    assert third["seed"] >= 0 and third["seed"] == load_config(str(tmp_path / "third" / "config.yaml")).SEED
    assert other.SEED == 5


def test_without_a_gpu_the_cpu_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cfg = setup(arguments("OUTPUT_DIR", str(tmp_path), "MODEL.DEVICE", "cuda"))
    assert cfg.MODEL.DEVICE == "cpu"
    assert "Running on the CPU: there is no GPU on this machine" in (tmp_path / "log.txt").read_text()


def test_ways_of_testing_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match=r"TEST\.SEM_SEG\.STRIDE must be above 0 and at most 1"):
        prepare_config(arguments("TEST.SEM_SEG.STRIDE", "0"))
    with pytest.raises(ValueError, match=r"MODEL\.META_ARCHITECTURE GeneralizedRCNN predicts objects"):
        prepare_config(arguments("TEST.SEM_SEG.FLIP", "True"))
