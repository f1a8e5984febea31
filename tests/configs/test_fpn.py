"""FPN's own experiments: anchors as the paper prints them, sizes of networks, recipes, rows made by overrides."""

import math
from pathlib import Path

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.anchor_generator import build_anchor_generator

from fapn_d2.config.hashing import training_hash
from fapn_d2.config.loading import load_config
from fapn_d2.meta_arch.build import build_model as build_frozen
from fapn_d2.reproduction.ledger import CONFIGS, find_row, load_ledger

from .test_all import run_forward_and_backward

LEDGER = load_ledger(CONFIGS / "fpn" / "tables.yaml")
STRIDES = {"res4": 16, "res5": 32, "p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}
# Table 1, column "#anchors", and what it rounds for an image of 800x1000 pixels
ANCHORS = {
    "fpn.t1.a_c4": (47, 47_250),
    "fpn.t1.b_c5": (12, 12_000),
    "fpn.t1.c_fpn": (200, 199_974),
    "fpn.t1.d_bottom_up": (200, 199_974),
    "fpn.t1.e_no_lateral": (200, 199_974),
    "fpn.t1.f_finest": (750, 750_000),
}


def config(row_id, *opts):
    return find_row([LEDGER], row_id).network.load(opts)


@pytest.mark.parametrize("row_id", ANCHORS)
def test_anchors_are_as_many_as_printed(row_id):
    printed, expected = ANCHORS[row_id]
    cfg = config(row_id)
    shapes = [ShapeSpec(channels=1, stride=STRIDES[name]) for name in cfg.MODEL.RPN.IN_FEATURES]
    maps = [torch.zeros(1, 1, math.ceil(800 / s.stride), math.ceil(1000 / s.stride)) for s in shapes]
    anchors = build_anchor_generator(cfg, shapes)(maps)
    count = sum(len(level) for level in anchors)
    assert count == expected and round(count / 1000) == printed
    # areas of 32^2 to 512^2 pixels at ratios 1:2, 1:1, 2:1 (Section 4.1)
    assert sorted({round(level.area()[i].sqrt().item()) for level in anchors for i in range(15 // len(maps))}) == [
        *(32, 64, 128, 256, 512)
    ]
    box = anchors[0].tensor[0]
    assert (box[3] - box[1]) / (box[2] - box[0]) == pytest.approx(0.5)


HEADS = {"fpn.t1.a_c4": 9_515_083, "fpn.t1.b_c5": 37_904_459, "fpn.t1.c_fpn": 593_935, "fpn.t1.f_finest": 609_355}


@pytest.mark.parametrize("row_id", HEADS)
def test_sizes_of_rpn_heads(row_id):
    with torch.device("meta"):
        model = build_model(config(row_id, "MODEL.DEVICE", "meta"))
    assert sum(p.numel() for p in model.proposal_generator.parameters()) == HEADS[row_id]
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert frozen == 222_400  # the stem and res2


def test_size_of_the_rpn_of_r101():
    path = CONFIGS / "fpn" / "rpn_R_101_FPN_40k.yaml"
    with torch.device("meta"):
        model = build_model(load_config(str(path), ["MODEL.DEVICE", "meta"]))
    assert sum(p.numel() for p in model.parameters()) == 46_333_135


FAST_RCNN = {
    "R_50_C4_80k": 24_276_561,
    "R_50_C5_80k": 127_677_009,
    "R_50_FPN_80k": 41_106_001,
    "R_50_FPN_P2_80k": 39_335_761,
    "R_101_FPN_80k": 60_045_905,
    "R_101_FPN_160k": 60_045_905,
}


@pytest.mark.parametrize("name", FAST_RCNN)
def test_sizes_and_recipe_of_fast_rcnn(name):
    cfg = load_config(str(CONFIGS / "fpn" / f"fast_rcnn_{name}.yaml"), ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        model = build_model(cfg)
    assert sum(p.numel() for p in model.parameters()) == FAST_RCNN[name]
    steps = ([120_000], 160_000) if name.endswith("160k") else ([60_000], 80_000)
    assert (list(cfg.SOLVER.STEPS), cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR) == (*steps, 0.02)
    assert (cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE, cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN) == (512, 2000)
    assert (cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST, cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE) == (1000, "ROIPool")


@pytest.mark.parametrize(("depth", "parameters"), [(50, 41_699_936), (101, 60_639_840)])
def test_networks_with_shared_features(depth, parameters):
    """The joined detector has the parts of the networks that are trained in turns, at their settings."""
    row = find_row([LEDGER], f"fpn.t5.fpn_r{depth}_share")
    on_meta = ["MODEL.DEVICE", "meta"]
    networks = (row.network, row.alternating.rpn, row.alternating.detector)
    with torch.device("meta"):
        whole, rpn, detector = (build_model(network.load(on_meta)) for network in networks)
    assert sum(p.numel() for p in whole.parameters()) == parameters == row.measured["params"]
    assert whole.state_dict().keys() == rpn.state_dict().keys() | detector.state_dict().keys()
    whole, rpn, detector = (network.load() for network in networks)
    assert (whole.MODEL.RPN.POST_NMS_TOPK_TRAIN, rpn.MODEL.RPN.POST_NMS_TOPK_TRAIN) == (2000, 1000)
    rpn.MODEL.RPN.POST_NMS_TOPK_TRAIN = 2000  # training of the RPN alone does not use its proposals
    assert whole.MODEL.RPN == rpn.MODEL.RPN
    assert whole.MODEL.ANCHOR_GENERATOR == rpn.MODEL.ANCHOR_GENERATOR
    assert whole.MODEL.ROI_HEADS == detector.MODEL.ROI_HEADS and whole.MODEL.ROI_BOX_HEAD == detector.MODEL.ROI_BOX_HEAD
    assert whole.SOLVER == detector.SOLVER and whole.SOLVER.MAX_ITER == 80_000  # also of the joint training
    assert rpn.SOLVER.MAX_ITER == 40_000


def test_rows_of_table_4_share_their_training():
    """Test sets without public labels are predicted with the network that is scored on minival."""
    rows = [find_row([LEDGER], f"fpn.t4.fpn_r101_{name}") for name in ("minival", "testdev", "teststd")]
    assert len({training_hash(row.network.load()) for row in rows}) == 1
    assert [row.network.load().DATASETS.TEST for row in rows] == [
        ("coco_2017_val",),
        ("coco_2017_test-dev",),
        ("coco_2017_test",),
    ]


def test_the_four_steps_freeze_the_backbone_and_the_pyramid():
    steps = find_row([LEDGER], "fpn.t5.fpn_r50_share").alternating.frozen()
    for network, heads in ((steps.rpn, "proposal_generator."), (steps.detector, "roi_heads.")):
        with torch.device("meta"):
            model = build_frozen(network.load(["MODEL.DEVICE", "meta"]))
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert trained == {name for name, _ in model.named_parameters() if name.startswith(heads)} != set()


@pytest.mark.parametrize("row_id", ANCHORS)
def test_recipe_of_table_1(row_id):
    cfg = config(row_id)
    solver, rpn = cfg.SOLVER, cfg.MODEL.RPN
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MOMENTUM, solver.WEIGHT_DECAY) == (16, 0.02, 0.9, 0.0001)
    assert (list(solver.STEPS), solver.MAX_ITER, solver.GAMMA) == ([30_000], 40_000, 0.1)
    assert (rpn.BATCH_SIZE_PER_IMAGE, rpn.POSITIVE_FRACTION, list(rpn.IOU_THRESHOLDS)) == (256, 0.5, [0.3, 0.7])
    assert (rpn.BOUNDARY_THRESH, rpn.NMS_THRESH, rpn.POST_NMS_TOPK_TEST) == (-1, 0.7, 1000)
    assert (list(cfg.INPUT.MIN_SIZE_TRAIN), cfg.INPUT.MIN_SIZE_TEST) == ([800], 800)
    assert (cfg.MODEL.META_ARCHITECTURE, cfg.INPUT.FORMAT, cfg.MODEL.BACKBONE.FREEZE_AT) == (
        "ProposalNetwork",
        "BGR",
        2,
    )


MASK_PROPOSALS = {  # cells of the windows, cells of a mask, parameters of the windows and of the network, iterations
    "mlp5": ([5], 14, 1_739_973, 26_277_253, 80_000),
    "mlp7": ([7], 14, 3_312_837, 27_850_117, 80_000),
    "mlp57": ([5, 7], 14, 5_052_810, 29_590_090, 80_000),
    "mlp57_2xmask": ([5, 7], 28, 5_656_098, 30_193_378, 80_000),
    "mlp57_2xmask_2xtrain": ([5, 7], 28, 5_656_098, 30_193_378, 160_000),
}


@pytest.mark.parametrize("name", MASK_PROPOSALS)
def test_sizes_and_recipe_of_table_6(name):
    windows, mask_size, head, total, iterations = MASK_PROPOSALS[name]
    cfg = config(f"fpn.t6.fpn_{name}", "MODEL.DEVICE", "meta")
    node, solver = cfg.MODEL.MASK_PROPOSALS, cfg.SOLVER
    with torch.device("meta"):
        model = build_model(cfg)
    assert sum(p.numel() for p in model.proposal_generator.parameters()) == head
    assert sum(p.numel() for p in model.parameters()) == total
    assert (list(node.WINDOWS), node.MASK_SIZE, node.MASK_WEIGHT) == (windows, mask_size, 10.0)
    assert (node.BATCH_SIZE_PER_IMAGE, node.POSITIVE_FRACTION) == (128, 0.25)
    assert (16, 0.03, iterations) == (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER)
    assert list(solver.STEPS) == [iterations * 3 // 4]
    assert (list(cfg.DATASETS.TRAIN), list(cfg.DATASETS.TEST)) == (["coco_2014_train"], ["coco_2014_val_first_5000"])
    assert (list(cfg.INPUT.MIN_SIZE_TRAIN), cfg.INPUT.MIN_SIZE_TEST, node.TOPK_TEST) == ([800], 800, 1000)


# Rows that no config file holds as it is: test_all runs the others.
OVERRIDES = {row.id: row.network for row in LEDGER.rows if "" in row.networks and row.network.overrides}


@pytest.mark.parametrize("row_id", OVERRIDES)
def test_rows_made_by_overrides_run_forward_and_backward(row_id):
    network = OVERRIDES[row_id]
    name = str(Path(network.config).relative_to(CONFIGS))
    run_forward_and_backward(name, overrides=network.options())
