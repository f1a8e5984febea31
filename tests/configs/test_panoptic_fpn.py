"""Panoptic FPN's single-task networks (Tables 1a to 1d): sizes, printed costs, recipes, gradients."""

import pytest
import torch
from detectron2.modeling import build_model

from fapn_d2.reproduction.analysis import analyze
from fapn_d2.reproduction.ledger import CONFIGS, find_row, load_ledger
from fapn_d2.reproduction.numbers import numbers_of
from fapn_d2.reproduction.records import Record

from .test_all import run_forward_and_backward

LEDGER = load_ledger(CONFIGS / "panoptic_fpn" / "tables.yaml")


def row(name):
    return find_row([LEDGER], f"panoptic_fpn.{name}")


def network(name, part=""):
    return row(name).networks[part]


# networks -> all parameters; those of the stem and res2 (222,400 in ResNets) are frozen on COCO
SIZES = {
    ("t1a.semantic_fpn_r101", ""): (47_365_459, 0),
    ("t1a.semantic_fpn_x101", ""): (86_174_035, 0),
    ("t1b.semantic_fpn_x152", ""): (125_190_428, 425_152),
    ("t1c.width64", "coco"): (27_504_118, 222_400),
    ("t1c.width64", "cityscapes"): (27_501_843, 0),
    ("t1c.width128", "coco"): (28_430_070, 222_400),
    ("t1c.width128", "cityscapes"): (28_425_555, 0),
    ("t1c.width256", "coco"): (30_945_526, 222_400),
    ("t1c.width256", "cityscapes"): (30_936_531, 0),
    ("t1d.concat", "coco"): (28_450_806, 222_400),
    ("t1d.concat", "cityscapes"): (28_432_851, 0),
}


@pytest.mark.parametrize(("name", "part"), SIZES)
def test_sizes(name, part):
    with torch.device("meta"):
        model = build_model(network(name, part).load(["MODEL.DEVICE", "meta"]))
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert (sum(p.numel() for p in model.parameters()), frozen) == SIZES[name, part]


@pytest.mark.parametrize("name", ["r101", "x101"])
def test_printed_operations_and_activations(name):
    printed = row(f"t1a.semantic_fpn_{name}")
    cfg = printed.network.load()
    counted = analyze(cfg, size=printed.flops_size, convention=printed.flops_convention).complexity
    found = {"flops_T": counted.total / 1e12, "memory_Gact": counted.activations / 1e9}
    for metric, value in found.items():
        # "approximate but informative", says the caption
        assert value == pytest.approx(printed.paper[metric], abs=0.05)
        assert value == pytest.approx(printed.measured[metric], abs=0.0005)
        assert numbers_of(printed, [])[metric].ours == (printed.measured[metric],)


def test_only_64x4d_with_the_stride_in_the_3x3_convolution_has_the_printed_numbers():
    for options, printed in (
        ((), (0.8, 1.4)),
        (("MODEL.RESNETS.STRIDE_IN_1X1", True), (0.8, 1.3)),
        (("MODEL.RESNETS.NUM_GROUPS", 32, "MODEL.RESNETS.WIDTH_PER_GROUP", 8), (0.9, 1.4)),
    ):
        cfg = network("t1a.semantic_fpn_x101").load(options)
        counted = analyze(cfg, size=(1024, 2048), convention="conv_macs").complexity
        assert (round(counted.total / 1e12, 1), round(counted.activations / 1e9, 1)) == printed


def recipe(cfg):
    return cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR, tuple(cfg.SOLVER.STEPS), cfg.SOLVER.MAX_ITER


def test_recipes():
    """Section 4.1; Section 4.2 for COCO-Stuff."""
    coco, cityscapes = (network("t1c.width128", part).load() for part in ("coco", "cityscapes"))
    largest = network("t1a.semantic_fpn_x101").load()
    stuff = network("t1b.semantic_fpn_x152").load()
    assert recipe(coco) == (16, 0.02, (60000, 80000), 90000)
    assert recipe(cityscapes) == recipe(largest) == (32, 0.01, (40000, 55000), 65000)
    assert recipe(network("t1a.semantic_fpn_r101").load()) == recipe(largest)
    assert recipe(stuff) == (16, 0.02, (40000, 55000), 65000)
    assert tuple(coco.INPUT.MIN_SIZE_TRAIN) == (640, 672, 704, 736, 768, 800)
    assert (coco.INPUT.MIN_SIZE_TEST, coco.INPUT.MAX_SIZE_TEST) == (800, 1333)
    for cfg, augmented in ((cityscapes, False), (largest, True)):
        assert cfg.INPUT.CROP.ENABLED and tuple(cfg.INPUT.CROP.SIZE) == (512, 1024)
        assert (cfg.INPUT.MIN_SIZE_TRAIN[0], cfg.INPUT.MIN_SIZE_TRAIN[-1]) == (512, 2048)
        assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (1024, 2048)
        # colour and crop augmentation are those of Table 1a alone
        assert cfg.INPUT.COLOR_AUG_SSD is augmented
        assert (0.75 if augmented else 1.0) == cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA
    assert tuple(stuff.INPUT.SCALE_CROP.SIZE) == (512, 512) and stuff.INPUT.COLOR_AUG_SSD and stuff.TEST.SEM_SEG.FLIP
    for cfg in (coco, cityscapes, largest, stuff):
        assert (cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.MOMENTUM, cfg.MODEL.RESNETS.NORM) == (1e-4, 0.9, "FrozenBN")
    for cfg in (largest, stuff):
        assert list(cfg.MODEL.PIXEL_STD) == [1, 1, 1] and not cfg.MODEL.RESNETS.STRIDE_IN_1X1


def test_the_row_made_by_overrides_trains():
    options = network("t1d.concat", "coco").options()
    run_forward_and_backward("panoptic_fpn/semantic_R_50_FPN_coco.yaml", overrides=options)


def test_a_number_of_one_network_is_not_looked_for_in_the_other():
    two = row("t1c.width128")
    runs = {"cityscapes": [74.0, 74.6, 74.5], "coco": [40.0]}
    records = [
        Record(two.id, name, "", [], seed, "", 1, "", 1, "", {"sem_seg": {"mIoU": score}})
        for name, scores in runs.items()
        for seed, score in enumerate(scores)
    ]
    numbers = numbers_of(two, records)
    assert numbers["mIoU_coco"].text == "40.2 → 40.00 (-0.20)"
    assert numbers["mIoU_cityscapes"].text == "74.5 → 74.50, the median of 3 (+0.00)"


def test_nothing_of_table_1_is_pending_and_the_numbers_of_cityscapes_are_medians():
    rows = [r for r in LEDGER.rows if r.id.startswith("panoptic_fpn.t1")]
    assert len(rows) == 8 and not any(r.pending for r in rows)
    assert {r.id for r in rows if r.trials == "mean"} == {"panoptic_fpn.t1b.semantic_fpn_x152"}
