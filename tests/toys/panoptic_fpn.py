"""A small Panoptic FPN; its images are those of the small PanopticFCN."""

import torch
from detectron2.modeling import build_model

from .detectors import toy_detector_cfg
from .panoptic_fcn import STUFF

TWO_TASKS = "TwoTaskPanopticFPN"


def toy_cfg(*options, architecture=TWO_TASKS):
    """64 channels, 5 classes of objects and 4 of the semantic branch."""
    cfg = toy_detector_cfg()
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL.BACKBONE.NAME = "build_pyramid_backbone"
    cfg.MODEL.NECK.PRESET = "fpn"
    cfg.MODEL.FPN.OUT_CHANNELS = 64
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = STUFF
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 32
    cfg.MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT = 8
    cfg.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH = 0.2
    cfg.merge_from_list(list(options))
    return cfg


def toy_network(*options, architecture=TWO_TASKS):
    torch.manual_seed(0)
    return build_model(toy_cfg(*options, architecture=architecture))
