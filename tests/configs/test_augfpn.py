"""AugFPN's configs: the official recipe, parameters and multiply-adds of the official modules, rows of ablations."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from fapn_d2.config.loading import load_config
from fapn_d2.heads.soft_roi_selection import SoftRoISelection
from fapn_d2.reproduction.complexity import count_flops

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "augfpn"
NO_AUXILIARY = ("MODEL.CONSISTENT_SUPERVISION.MODE", "none")
BATCH_NORM = ("MODEL.BACKBONE.FREEZE_AT", 0)  # frozen stages have buffers instead of scale and shift

# What the official modules count and Detectron2's do not: mmdetection predicts box deltas and a mask for the background
# too, its FCOS has a scale a level but no bias before group norm.
BOX, MASK, FCOS = 4 * 1024 + 4, 257, 5 - 8 * 256

# config, difference, official parameters: FPN, AugFPN without and with auxiliary heads
OFFICIAL = [
    ("faster_rcnn_R_50", BOX, 41_757_156, 43_806_187, 58_116_992),
    ("faster_rcnn_R_101", BOX, 60_749_284, 62_798_315, 77_109_120),
    ("faster_rcnn_X_101_32x4d", BOX, 60_377_828, 62_426_859, 76_737_664),
    ("faster_rcnn_X_101_64x4d", BOX, 99_655_396, 101_704_427, 116_015_232),
    ("faster_rcnn_MobileNetV2", BOX, 19_198_628, 19_920_555, 34_231_360),
    ("mask_rcnn_R_50", BOX + MASK, 44_400_693, 46_721_344, 63_675_686),
    ("retinanet_R_50", 0, 37_968_692, 39_746_103, 54_056_908),
]
# The same in Detectron2's conventions: frozen batch norm.
DETECTRON2 = [
    ("faster_rcnn_R_50", 41_699_936, 43_748_967, 58_055_672),
    ("mask_rcnn_R_50", 44_343_216, 46_663_867, 63_613_852),
    ("retinanet_R_50", 37_915_572, 39_692_983, 53_999_688),
    ("fcos_R_50", 32_244_245, 34_021_656, 48_328_361),
]


def config(name, neck, *options):
    return load_config(str(CONFIGS / f"{name}_{neck}_1x.yaml"), list(options))


def built(cfg):
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_model(cfg)


def parameters(*args):
    return sum(p.numel() for p in built(config(*args)).parameters())


@pytest.mark.parametrize(("name", "difference", "fpn", "inference", "training"), OFFICIAL)
def test_official_parameters(name, difference, fpn, inference, training):
    assert parameters(name, "FPN", *BATCH_NORM) + difference == fpn
    assert parameters(name, "AugFPN", *BATCH_NORM, *NO_AUXILIARY) + difference == inference
    heads = 1 if name.startswith("retinanet") else 2
    assert parameters(name, "AugFPN", *BATCH_NORM) + max(difference, BOX) * heads == training


@pytest.mark.parametrize(("name", "fpn", "inference", "training"), DETECTRON2)
def test_parameters_with_frozen_batch_norm(name, fpn, inference, training):
    frozen = ["MODEL.RESNETS.NORM", "FrozenBN", "MODEL.NECK.BOTTOM_UP", "build_resnet_backbone"]
    assert parameters(name, "FPN", *frozen) == fpn
    assert parameters(name, "AugFPN", *frozen, *NO_AUXILIARY) == inference
    assert parameters(name, "AugFPN", *frozen) == training
    if name.startswith("fcos"):
        assert fpn + FCOS + 53_120 == 32_295_322  # the official total, with scale and shift of batch norms


def macs(module, *shapes):
    return count_flops(module, *(torch.empty(shape, device="meta") for shape in shapes)).total / 1e9


@pytest.mark.parametrize(
    ("name", "fpn", "augfpn"),
    [("faster_rcnn_R_50", 215.94, 229.52), ("retinanet_R_50", 250.49, 250.77), ("fcos_R_50", 209.78, 210.06)],
)
def test_multiply_adds_at_800x1344(name, fpn, augfpn):
    for neck, expected in (("FPN", fpn), ("AugFPN", augfpn)):
        model = built(config(name, neck)).eval()
        maps = model.backbone(torch.empty(1, 3, 800, 1344, device="meta"))
        total = macs(model.backbone, (1, 3, 800, 1344))
        if name.startswith("faster"):
            total += count_flops(model.proposal_generator.rpn_head, list(maps.values())).total / 1e9
            total += macs(model.roi_heads.box_head, (1000, 256, 7, 7)) + macs(
                model.roi_heads.box_predictor, (1000, 1024)
            )
            if neck == "AugFPN":
                regions = [torch.empty(1000, 256, 7, 7, device="meta")] * 4
                selection = count_flops(model.roi_heads.box_pooler.fusion, regions).total / 1e9
                assert selection == pytest.approx(13.297, rel=0.01)
                total += selection
        else:
            total += count_flops(model.head, list(maps.values())).total / 1e9
        assert total == pytest.approx(expected, rel=0.01)


def test_multiply_adds_of_the_parts():
    model = built(config("mask_rcnn_R_50", "AugFPN")).eval()
    context = model.backbone.context
    assert macs(context, (1, 2048, 25, 42)) == pytest.approx(0.2829, rel=0.01)
    regions = [torch.empty(100, 256, 14, 14, device="meta")] * 4
    assert count_flops(model.roi_heads.mask_pooler.fusion, regions).total / 1e9 == pytest.approx(5.319, rel=0.01)
    layers = torch.nn.Sequential(*model.roi_heads.mask_head.children())
    assert macs(layers, (100, 256, 14, 14)) == pytest.approx(53.006, rel=0.01)


def test_recipe_of_two_stage_detectors():
    cfg = config("mask_rcnn_R_50", "AugFPN")
    model, solver = cfg.MODEL, cfg.SOLVER
    assert (cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN) == ((800,), 1333)
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.FORMAT) == (800, 1333, "RGB")
    assert model.PIXEL_MEAN == [123.675, 116.28, 103.53] and model.PIXEL_STD == [58.395, 57.12, 57.375]
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MOMENTUM, solver.WEIGHT_DECAY) == (16, 0.02, 0.9, 1e-4)
    assert solver.WEIGHT_DECAY_NORM == 1e-4 and solver.GAMMA == 0.1
    epoch = -(-117_266 // 16)
    assert (*solver.STEPS, solver.MAX_ITER) == (8 * epoch, 11 * epoch, 12 * epoch)
    assert (solver.WARMUP_ITERS, solver.WARMUP_METHOD) == (500, "linear")
    assert pytest.approx(1 / 3, abs=1e-5) == solver.WARMUP_FACTOR
    clip = solver.CLIP_GRADIENTS
    assert (clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE, clip.NORM_TYPE) == (True, "full_model", 35.0, 2.0)
    rpn = model.RPN
    assert [rpn.PRE_NMS_TOPK_TRAIN, rpn.PRE_NMS_TOPK_TEST, rpn.POST_NMS_TOPK_TRAIN, rpn.POST_NMS_TOPK_TEST] == [
        2000
    ] * 4
    assert (rpn.NMS_THRESH, rpn.BOUNDARY_THRESH, rpn.BATCH_SIZE_PER_IMAGE, rpn.POSITIVE_FRACTION) == (0.7, 0, 256, 0.5)
    assert rpn.IOU_THRESHOLDS == [0.3, 0.7] and pytest.approx(1 / 9, abs=1e-4) == rpn.SMOOTH_L1_BETA
    assert [[8 * 2**i] for i in (2, 3, 4, 5, 6)] == model.ANCHOR_GENERATOR.SIZES
    heads, box, mask = model.ROI_HEADS, model.ROI_BOX_HEAD, model.ROI_MASK_HEAD
    assert (heads.BATCH_SIZE_PER_IMAGE, heads.POSITIVE_FRACTION, heads.IOU_THRESHOLDS) == (512, 0.25, [0.5])
    assert (heads.SCORE_THRESH_TEST, heads.NMS_THRESH_TEST, cfg.TEST.DETECTIONS_PER_IMAGE) == (0.05, 0.5, 100)
    assert (box.SMOOTH_L1_BETA, box.BBOX_REG_WEIGHTS, box.FC_DIM, box.NUM_FC) == (1.0, (10.0, 10.0, 5.0, 5.0), 1024, 2)
    for head, size in ((box, 7), (mask, 14)):
        assert ("ROIAlign", 2, size) == (head.POOLER_TYPE, head.POOLER_SAMPLING_RATIO, head.POOLER_RESOLUTION)
    assert (model.RESNETS.STRIDE_IN_1X1, model.BACKBONE.FREEZE_AT, model.RESNETS.NORM) == (False, 2, "BN")
    assert model.CONSISTENT_SUPERVISION.WEIGHT == 0.25 and model.NECK.RESIDUAL_AUGMENTATION.RATIOS == [0.1, 0.2, 0.3]


def test_recipe_of_longer_schedules_and_other_bottom_ups():
    twice = load_config(str(CONFIGS / "faster_rcnn_R_101_AugFPN_2x.yaml")).SOLVER
    assert (*twice.STEPS, twice.MAX_ITER) == (16 * 7330, 22 * 7330, 24 * 7330)
    groups = config("faster_rcnn_X_101_64x4d", "FPN").MODEL.RESNETS
    assert (groups.NUM_GROUPS, groups.WIDTH_PER_GROUP, groups.DEPTH, groups.STRIDE_IN_1X1) == (64, 4, 101, False)
    mobile = config("faster_rcnn_MobileNetV2", "AugFPN")
    assert (mobile.MODEL.TIMM.NAME, mobile.MODEL.TIMM.NORM, mobile.INPUT.FORMAT) == ("mobilenetv2_100", "EvalBN", "RGB")


def test_recipe_of_one_stage_detectors():
    retinanet = config("retinanet_R_50", "AugFPN")
    node = retinanet.MODEL.RETINANET
    assert (node.IOU_THRESHOLDS, node.FOCAL_LOSS_ALPHA, node.FOCAL_LOSS_GAMMA) == ([0.4, 0.5], 0.25, 2.0)
    assert (node.SMOOTH_L1_LOSS_BETA, node.SCORE_THRESH_TEST, node.TOPK_CANDIDATES_TEST) == (0.11, 0.05, 1000)
    assert retinanet.SOLVER.BASE_LR == 0.01 and retinanet.SOLVER.CLIP_GRADIENTS.CLIP_VALUE == 35.0
    assert (retinanet.MODEL.NECK.TOP_BLOCK, retinanet.MODEL.NECK.TOP_BLOCK_IN) == ("p6p7_context", "")
    fcos = config("fcos_R_50", "AugFPN")
    solver, model = fcos.SOLVER, fcos.MODEL
    assert (solver.BASE_LR, solver.WARMUP_METHOD, solver.CLIP_GRADIENTS.ENABLED) == (0.01, "constant", False)
    assert (solver.BIAS_LR_FACTOR, solver.WEIGHT_DECAY_BIAS) == (2.0, 0.0)
    assert (model.FCOS.CENTER_SAMPLING_RADIUS, model.FCOS.NORM, model.RESNETS.NORM) == (0.0, "GN", "FrozenBN")
    assert (model.NECK.TOP_BLOCK, model.NECK.TOP_BLOCK_IN) == ("p6p7_relu_context", "p5")
    assert (fcos.INPUT.FORMAT, model.PIXEL_STD, model.RESNETS.STRIDE_IN_1X1) == ("BGR", [1.0, 1.0, 1.0], True)
    node = model.CONSISTENT_SUPERVISION
    assert (node.WEIGHT, node.PRE_NMS_TOPK, node.SCORE_THRESH, node.NMS_THRESH, node.POST_NMS_TOPK) == (
        0.25,
        2000,
        0.01,
        0.7,
        1000,
    )


RFA = "MODEL.NECK.RESIDUAL_AUGMENTATION."
OFF = {
    "CS": NO_AUXILIARY,
    "RFA": ("MODEL.NECK.CONTEXT", "none"),
    "SRS": ("MODEL.SOFT_ROI_SELECTION.FUSION", "none"),
}
# Rows of Tables 3 to 5: components that are off, and what else the row changes.
ROWS = {
    **{
        f"t3 single {w}": (
            "RFA SRS",
            ("MODEL.CONSISTENT_SUPERVISION.MODE", "single_level", "MODEL.CONSISTENT_SUPERVISION.WEIGHT", w),
        )
        for w in (1.2, 1.0, 0.5, 0.25)
    },
    **{f"t3 all {w}": ("RFA SRS", ("MODEL.CONSISTENT_SUPERVISION.WEIGHT", w)) for w in (0.5, 0.25, 0.125)},
    "t4 gmp": ("CS SRS", (f"{RFA}POOLING", "gmp", f"{RFA}FUSION", "sum")),
    "t4 gap": ("CS SRS", (f"{RFA}POOLING", "gap", f"{RFA}FUSION", "sum")),
    "t4 sum": ("CS SRS", (f"{RFA}FUSION", "sum")),
    **{
        f"t4 {r}": ("CS SRS", (f"{RFA}RATIOS", r))
        for r in ("[0.1]", "[0.1, 0.2]", "[0.1, 0.2, 0.3, 0.4]", "[0.1, 0.2, 0.5]")
    },
    "t4 psp": ("CS SRS", (f"{RFA}POOLING", "psp")),
    **{f"t5 {f}": ("CS RFA", ("MODEL.SOFT_ROI_SELECTION.FUSION", f)) for f in ("sum", "max", "acf", "asf")},
}


@pytest.mark.parametrize(("off", "options"), ROWS.values(), ids=ROWS)
def test_rows_of_the_ablations_are_overrides(off, options):
    model = built(config("faster_rcnn_R_50", "AugFPN", *(x for name in off.split() for x in OFF[name]), *options))
    heads = model.roi_heads
    assert (heads.consistent_supervision is None) == ("CS" in off)
    assert (model.backbone.context is None) == ("RFA" in off)
    assert isinstance(heads.box_pooler, SoftRoISelection) != ("SRS" in off)
