"""Parameters of whole networks, FPN and FaPN, as counted on the official modules."""

from pathlib import Path

import detectron2
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.projects.point_rend import add_pointrend_config

from fapn_d2 import add_fapn_config
from fapn_d2.config.loading import load_config

ZOO = Path(detectron2.__file__).parent / "model_zoo" / "configs"

# host, depth, FPN, FaPN
COUNTS = [
    ("faster_rcnn", 50, 41_699_936, 46_142_440),
    ("faster_rcnn", 101, 60_639_840, 65_082_344),
    ("mask_rcnn", 50, 44_343_216, 48_785_720),
    ("mask_rcnn", 101, 63_283_120, 67_725_624),
    ("panoptic", 50, 45_973_990, 50_416_494),
    ("panoptic", 101, 64_913_894, 69_356_398),
    ("pointrend", 50, 60_161_792, 64_604_296),
    ("pointrend_semantic", 50, 28_632_678, 33_075_182),
    ("pointrend_semantic", 101, 47_572_582, 52_015_086),
    ("retinanet", 50, 37_915_572, 41_073_764),
]


def host_config(host, depth):
    """Detectron2's own config of the host; FPN."""
    cfg = get_cfg()
    add_pointrend_config(cfg)
    add_fapn_config(cfg)
    zoo = {
        "faster_rcnn": "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
        "mask_rcnn": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
        "panoptic": "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml",
        "retinanet": "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
        "pointrend": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
        "pointrend_semantic": "Base-RCNN-FPN.yaml",
    }
    cfg.merge_from_file(str(ZOO / zoo[host]), allow_unsafe=True)  # RetinaNet's anchors are an expression
    if host == "pointrend":
        cfg.MODEL.ROI_MASK_HEAD.NAME = "PointRendMaskHead"
        cfg.MODEL.ROI_MASK_HEAD.POOLER_TYPE = ""
        cfg.MODEL.ROI_MASK_HEAD.POINT_HEAD_ON = True
    if host == "pointrend_semantic":
        cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
        cfg.MODEL.SEM_SEG_HEAD.NAME = "PointRendSemSegHead"
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = cfg.MODEL.POINT_HEAD.NUM_CLASSES = 19
        cfg.MODEL.POINT_HEAD.COARSE_PRED_EACH_LAYER = False
        cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.DEVICE = "meta"
    return cfg


def count(cfg):
    with torch.device("meta"):
        return sum(p.numel() for p in build_model(cfg).parameters())


@pytest.mark.parametrize(("host", "depth", "fpn", "fapn"), COUNTS)
def test_counts(host, depth, fpn, fapn):
    cfg = host_config(host, depth)
    assert count(cfg) == fpn
    cfg.MODEL.BACKBONE.NAME = cfg.MODEL.BACKBONE.NAME.replace("_fpn_", "_fapn_")
    assert count(cfg) == fapn
    cfg.MODEL.NECK.TOP_BLOCK = "p6p7" if host == "retinanet" else "max_pool"
    cfg.MODEL.BACKBONE.NAME = "build_pyramid_backbone"
    assert count(cfg) == fpn


# neck, all parameters, those that are trained (the stem and res2 are frozen), those of the backbone with its neck
PANOPTIC_FCN = {"FPN": (36_999_511, 36_777_111, 27_979_456), "FaPN": (41_442_015, 41_219_615, 32_421_960)}
PARTS = {
    "semantic_fpn": 4_132_352,
    "feature_encoder": 222_528,
    "position_head": 2_266_583,
    "kernel_head": 2_365_696,
    "thing_generator": 16_448,
    "stuff_generator": 16_448,
}


@pytest.mark.parametrize("neck", PANOPTIC_FCN)
@pytest.mark.parametrize("name", ["R_50_{}_1x", "R_50_600_{}_3x"])
def test_counts_of_panoptic_fcn(name, neck):
    path = Path(__file__).resolve().parents[2] / "configs" / "fapn" / f"panopticfcn_{name.format(neck)}.yaml"
    with torch.device("meta"):
        model = build_model(load_config(str(path), ["MODEL.DEVICE", "meta"]))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert (sum(parts.values()), trained, parts.pop("backbone")) == PANOPTIC_FCN[neck]
    assert parts == PARTS
