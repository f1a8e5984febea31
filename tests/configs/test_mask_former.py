"""MaskFormer's networks: parameters and operations as counted on the official ones, and the recipes."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from fapn_d2.config.loading import load_config
from fapn_d2.reproduction.analysis import analyze

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "fapn"
SWIN_T = ["MODEL.TIMM.NAME", "swin_tiny_patch4_window7_224"]
SWIN_S = ["MODEL.TIMM.NAME", "swin_small_patch4_window7_224"]

# config, changes, backbone, pixel decoder, predictor, all
COUNTS = [
    ("R_50_FPN_ade20k", [], 23_454_912, 7_540_480, 10_259_351, 41_254_743),
    ("R_50_FaPN_ade20k", [], 23_454_912, 11_197_576, 10_259_351, 44_911_839),
    ("R_101_FPN_coco_stuff", [], 42_394_816, 7_540_480, 10_264_748, 60_200_044),
    ("R_101_FaPN_coco_stuff", [], 42_394_816, 11_197_576, 10_264_748, 63_857_140),
    ("Swin_L_FPN_ade20k", [], 195_201_204, 6_246_144, 10_128_279, 211_575_627),
    ("Swin_L_FaPN_ade20k", [], 195_201_204, 9_903_240, 10_128_279, 215_232_723),
    ("Swin_L_FPN_ade20k", SWIN_T, 27_520_698, 4_304_640, 9_931_671, 41_757_009),
    ("Swin_L_FPN_ade20k", SWIN_S, 48_838_602, 4_304_640, 9_931_671, 63_074_913),
]


def load(name, opts=()):
    return load_config(str(CONFIGS / f"mask_former_{name}.yaml"), ["MODEL.DEVICE", "meta", *opts])


@pytest.mark.parametrize(("name", "opts", "backbone", "decoder", "predictor", "total"), COUNTS)
def test_parameters(name, opts, backbone, decoder, predictor, total):
    with torch.device("meta"):
        model = build_model(load(name, opts))
    head = model.sem_seg_head
    parts = (model.backbone, head.pixel_decoder, head.predictor, model)
    assert [sum(p.numel() for p in m.parameters()) for m in parts] == [backbone, decoder, predictor, total]


# config, changes, side of the image, thousands of millions of multiply-adds without norms, upsampling and the masks of
# auxiliary layers, of which the authors' counter has 1 % at most; their deformable convolutions are not in it
OPERATIONS = [
    ("R_50_FPN_ade20k", [], 512, 53.032),
    ("Swin_L_FPN_ade20k", SWIN_T, 512, 55.163),
    ("Swin_L_FPN_ade20k", SWIN_S, 512, 78.930),
    ("Swin_L_FPN_ade20k", [], 640, 374.790),
    ("R_101_FPN_coco_stuff", [], 640, 113.564),
    ("R_50_FaPN_ade20k", [], 512, 66.597 + 12.684),
    ("R_101_FaPN_coco_stuff", [], 640, 134.758 + 19.818),
    ("Swin_L_FaPN_ade20k", [], 640, 395.984 + 19.818),
]


@pytest.mark.parametrize(("name", "opts", "side", "expected"), OPERATIONS)
def test_operations(name, opts, side, expected):
    counted = analyze(load(name, opts), size=(side, side)).complexity.total / 1e9
    assert counted == pytest.approx(expected, rel=0.025)


def test_recipe_of_table_7a():
    cfg = load("Swin_L_FaPN_ade20k")
    solver, given = cfg.SOLVER, cfg.INPUT
    assert (solver.OPTIMIZER, solver.IMS_PER_BATCH, solver.MAX_ITER, solver.BASE_LR) == ("AdamW", 16, 160_000, 6e-5)
    assert (solver.BACKBONE_MULTIPLIER, solver.WEIGHT_DECAY, solver.WEIGHT_DECAY_NORM) == (1.0, 0.01, 0.0)
    assert (solver.WARMUP_ITERS, solver.WARMUP_FACTOR, solver.WARMUP_METHOD) == (1500, 1e-6, "linear")
    assert list(given.MIN_SIZE_TRAIN) == [64 * k for k in range(5, 21)] and given.MAX_SIZE_TRAIN == 2560
    assert given.MIN_SIZE_TRAIN_SAMPLING == "choice" and given.RANDOM_FLIP == "horizontal" and given.COLOR_AUG_SSD
    assert given.CROP.ENABLED and list(given.CROP.SIZE) == [640, 640] and given.SIZE_DIVISIBILITY == 640
    assert (given.MIN_SIZE_TEST, given.MAX_SIZE_TEST) == (640, 2560)
    aug = cfg.TEST.AUG
    assert (aug.ENABLED, list(aug.MIN_SIZES), aug.MAX_SIZE, aug.FLIP) == (True, [*range(320, 1121, 160)], 4480, True)


def test_recipe_of_table_7b():
    cfg = load("R_101_FaPN_coco_stuff")
    solver, given = cfg.SOLVER, cfg.INPUT
    assert (solver.OPTIMIZER, solver.IMS_PER_BATCH, solver.MAX_ITER, solver.BASE_LR) == ("AdamW", 32, 60_000, 1e-4)
    assert (solver.BACKBONE_MULTIPLIER, solver.WEIGHT_DECAY, solver.WARMUP_ITERS) == (0.1, 1e-4, 0)
    assert list(given.MIN_SIZE_TRAIN) == [64 * k for k in range(5, 16)] and given.MAX_SIZE_TRAIN == 2560
    assert given.CROP.ENABLED and list(given.CROP.SIZE) == [640, 640] and given.SIZE_DIVISIBILITY == 640
    assert cfg.MODEL.RESNETS.NORM == "FrozenBN" and cfg.MODEL.BACKBONE.FREEZE_AT == 0
    assert not cfg.MODEL.RESNETS.STRIDE_IN_1X1 and cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 171


def test_recipe_of_ade20k_at_512():
    cfg = load("R_50_FPN_ade20k")
    assert list(cfg.INPUT.MIN_SIZE_TRAIN) == [int(51.2 * k) for k in range(5, 21)] and cfg.INPUT.MAX_SIZE_TRAIN == 2048
    assert not cfg.TEST.AUG.ENABLED and cfg.INPUT.MIN_SIZE_TEST == 512
    assert list(cfg.TEST.AUG.MIN_SIZES) == [*range(256, 897, 128)] and cfg.TEST.AUG.MAX_SIZE == 3584
