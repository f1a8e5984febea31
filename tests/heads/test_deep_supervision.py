"""Deep supervision asks the pyramid itself which maps it has, whatever its bottom-up network is."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model

from fapn_d2.heads.deep_supervision import supervision_from_config

from ..toys.pyramids import CHANNELS, toy_cfg, toy_pyramid


def timm_cfg(*features, extra=("bottom_up",)):
    """A segmentor on a tiny network of timm. It is no ResNet, and MODEL.NECK.BOTTOM_UP does not name it."""
    pytest.importorskip("timm")
    cfg = toy_cfg("build_timm_pyramid_backbone", out_channels=16, EXTRA_OUTPUTS=list(extra))
    cfg.MODEL.NECK.BOTTOM_UP = "build_resnet_backbone"  # the default
    cfg.MODEL.TIMM.NAME = "test_efficientnet"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    head = cfg.MODEL.SEM_SEG_HEAD
    head.NAME, head.IN_FEATURES, head.NUM_CLASSES = "AlignedDecoderHead", ["p2", "p3"], 5
    head.CONVS_DIM, head.NORM = 32, "GN"
    head.DEEP_SUPERVISION.FEATURES = list(features)
    head.DEEP_SUPERVISION.CHANNELS = [32] * len(features)
    return cfg


def test_bottom_up_map_of_a_network_that_is_no_resnet():
    model = build_model(timm_cfg("res4", "res3"))
    shapes = model.backbone.bottom_up.output_shape()
    heads = model.sem_seg_head.auxiliary
    assert [heads[f].conv.in_channels for f in ("res4", "res3")] == [shapes[f].channels for f in ("res4", "res3")]
    assert shapes["res4"].channels not in (256, 512, 1024, 2048)
    samples = [{"image": torch.randint(0, 255, (3, 64, 64)), "sem_seg": torch.randint(0, 5, (64, 64))} for _ in "ab"]
    losses = model.train()(samples)
    assert list(losses) == ["loss_sem_seg", "loss_sem_seg_res4", "loss_sem_seg_res3"]
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.sem_seg_head.parameters())


def test_maps_that_the_pyramid_does_not_give():
    with pytest.raises(ValueError, match=r"'res4', which is there only if MODEL\.NECK\.EXTRA_OUTPUTS has 'bottom_up'"):
        build_model(timm_cfg("res4", extra=()))
    with pytest.raises(ValueError, match="'res6', which does not exist; available maps: p2, p3, p4, p5, p6, res2"):
        build_model(timm_cfg("res6"))


def test_laterals_that_a_builder_gives_of_itself():
    """AugFPN's builders give the laterals without MODEL.NECK.EXTRA_OUTPUTS."""
    cfg = toy_cfg("build_resnet_augfpn_backbone")
    cfg.MODEL.SEM_SEG_HEAD.DEEP_SUPERVISION.FEATURES = ["lateral3", "p4"]
    pyramid = toy_pyramid("build_resnet_augfpn_backbone")
    found = supervision_from_config(cfg, pyramid.output_shape())
    assert [(s.feature, s.in_channels, s.channels) for s in found] == [("lateral3", 64, 64), ("p4", 64, 64)]


def test_a_backbone_that_is_no_pyramid():
    cfg = toy_cfg("build_resnet_backbone")
    cfg.MODEL.SEM_SEG_HEAD.DEEP_SUPERVISION.FEATURES = ["res4"]
    shapes = {name: ShapeSpec(channels=channels) for name, channels in CHANNELS.items()}
    assert supervision_from_config(cfg, shapes)[0].in_channels == 48
    cfg.MODEL.SEM_SEG_HEAD.DEEP_SUPERVISION.FEATURES = ["merged4"]
    with pytest.raises(ValueError, match="'merged4', which does not exist; available maps: res2, res3, res4, res5"):
        supervision_from_config(cfg, shapes)
