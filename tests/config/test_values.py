"""Values that cannot work are named before a network is built."""

import logging
from pathlib import Path

import pytest

from fapn_d2.config.loading import load_config
from fapn_d2.config.values import AT_LEAST, CHOICES, check_data_names, check_values, warn_of_warmup
from fapn_d2.evaluation.build import BACKENDS


def test_defaults_are_allowed():
    check_values(load_config())
    assert CHOICES["TEST.BACKEND"] is BACKENDS


@pytest.mark.parametrize("key", [*AT_LEAST, *CHOICES])
def test_every_line_of_the_tables_names_a_key(key):
    node = load_config()
    for part in key.split("."):
        node = node[part]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("SOLVER.MAX_ITER", "0", r"SOLVER.MAX_ITER is 0; it must be at least 1"),
        ("INPUT.MIN_SIZE_TRAIN", "(640, -800)", r"MIN_SIZE_TRAIN is \(640, -800\); each number must be at least 1"),
        ("INPUT.MIN_SIZE_TRAIN", "()", r"INPUT.MIN_SIZE_TRAIN is empty; it needs at least one size"),
        ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", r"with INPUT.MIN_SIZE_TRAIN_SAMPLING range it has two numbers"),
        ("MODEL.FPN.OUT_CHANNELS", "-256", r"MODEL.FPN.OUT_CHANNELS is -256; it must be at least 1"),
        ("SOLVER.BASE_LR", "-0.1", r"SOLVER.BASE_LR is -0.1; it must be at least 0"),
        ("TEST.BACKEND", "fats", r"TEST.BACKEND is 'fats'; allowed are fast, official; nearest: fast"),
        ("INPUT.RANDOM_FLIP", "both", r"INPUT.RANDOM_FLIP is 'both'; allowed are horizontal, vertical, none"),
    ],
)
def test_wrong_values(key, value, message):
    with pytest.raises(ValueError, match=message):
        check_values(load_config("", [key, value]))


def test_crops_and_several_faults_in_one_message():
    crop = ("INPUT.CROP.ENABLED", "True", "INPUT.CROP.SIZE")
    with pytest.raises(ValueError, match=r"CROP.SIZE is \[-0.5, 0.5\]; each number must be above 0"):
        check_values(load_config("", [*crop, "[-0.5, 0.5]"]))
    with pytest.raises(ValueError, match=r"CROP.SIZE is \[512, 512\]; with INPUT.CROP.TYPE relative_range"):
        check_values(load_config("", [*crop, "[512, 512]"]))
    with pytest.raises(ValueError, match=r"SOLVER.MAX_ITER is 0; .*; TEST.BACKEND is 'x'; "):
        check_values(load_config("", ["SOLVER.MAX_ITER", "0", "TEST.BACKEND", "x"]))


def test_no_data_sets():
    with pytest.raises(ValueError, match=r"DATASETS.TRAIN is empty: name a config file .*add your own"):
        check_data_names(load_config(), training=True)
    check_data_names(load_config("", ["DATASETS.TEST", "('coco_2017_val',)"]), training=False)


def test_a_warm_up_that_does_not_end(caplog):
    with caplog.at_level(logging.WARNING, "fapn_d2"):
        warn_of_warmup(load_config("", ["SOLVER.WARMUP_ITERS", "99", "SOLVER.MAX_ITER", "100"]))
        assert not caplog.records
        warn_of_warmup(load_config("", ["SOLVER.WARMUP_ITERS", "100", "SOLVER.MAX_ITER", "100"]))
    assert "the learning rate stays below SOLVER.BASE_LR" in caplog.text and "to 10 or less" in caplog.text


def test_lists_of_words_without_quotes():
    key = "MODEL.RESNETS.OUT_FEATURES"
    for text in ("[res3,res5]", "[res3, res5]", "(res3, res5)", "['res3', 'res5']"):
        assert load_config("", [key, text]).MODEL.RESNETS.OUT_FEATURES == ["res3", "res5"], text
    assert load_config("", ["DATASETS.TRAIN", "(a_train,)"]).DATASETS.TRAIN == ("a_train",)


def test_a_python_config(tmp_path):
    path = Path(tmp_path / "lazy.py")
    path.write_text("model = 1")
    with pytest.raises(ValueError, match=r"lazy.py is a Python file. Detectron2's LazyConfig is not read; .* --import"):
        load_config(str(path))
