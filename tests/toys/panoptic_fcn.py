"""A small PanopticFCN and images with objects and regions for it."""

import torch
from detectron2.modeling import build_model

from .detectors import CLASSES, toy_detector_cfg, toy_inputs

STUFF = 4


def toy_cfg(*options):
    """32 channels and 5 classes of objects, 4 of the semantic branch; FaPN's neck unless ``options`` say else."""
    cfg = toy_detector_cfg(one_stage="RetinaNet")
    cfg.MODEL.META_ARCHITECTURE = "PanopticFCN"
    cfg.MODEL.BACKBONE.NAME = "build_pyramid_backbone"
    cfg.MODEL.NECK.PRESET = "fapn"
    cfg.MODEL.NECK.TOP_BLOCK = "p6p7"
    cfg.MODEL.NECK.TOP_BLOCK_IN = "p5"
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = STUFF
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 64
    cfg.MODEL.PANOPTIC_FCN.NUM_CLASSES = CLASSES
    for head in ("POSITION_HEAD", "KERNEL_HEAD"):
        cfg.MODEL.PANOPTIC_FCN[head].CONVS_DIM = 64  # two channels per group, for maps of one cell
    cfg.MODEL.PANOPTIC_FCN.FEATURE_ENCODER.CONVS_DIM = 16
    cfg.MODEL.PANOPTIC_FCN.OBJECT_SCALES = [[1, 16], [8, 32], [16, 64], [32, 96], [64, 512]]
    cfg.merge_from_list(list(options))
    return cfg


def toy_network(*options):
    torch.manual_seed(0)
    return build_model(toy_cfg(*options))


def panoptic_inputs(counts=(3, 2), size=(64, 96), masks="bitmask", labels=True):
    inputs = toy_inputs(counts, size, masks)
    for x in inputs:
        x["sem_seg"] = torch.full(size, 255)
        if labels:
            x["sem_seg"][: size[0] // 2] = 0
            x["sem_seg"][size[0] // 2 :] = 2
    return inputs
