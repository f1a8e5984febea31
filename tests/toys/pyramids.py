"""Small bottom-up networks and configs that several tests of necks share."""

import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_backbone

from fapn_d2 import add_fapn_config

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
CHANNELS = {"res2": 16, "res3": 32, "res4": 48, "res5": 64}


class GivenMaps(Backbone):
    """A bottom-up network without parameters: passes on the maps that it is called with."""

    def __init__(self, channels=CHANNELS, strides=STRIDES):
        super().__init__()
        self._out_features = list(channels)
        self._out_feature_channels = dict(channels)
        self._out_feature_strides = {name: strides[name] for name in channels}

    def forward(self, maps):
        return maps


@BACKBONE_REGISTRY.register()
def build_given_maps(cfg, input_shape):
    return GivenMaps({name: CHANNELS[name] for name in cfg.MODEL.FPN.IN_FEATURES})


@BACKBONE_REGISTRY.register()
def build_uneven_maps(cfg, input_shape):
    """Strides that are not consecutive powers of two, among them one twice."""
    strides = {"res2": 4, "res3": 12, "res4": 12, "res5": 30}
    return GivenMaps({name: CHANNELS[name] for name in cfg.MODEL.FPN.IN_FEATURES}, strides)


def toy_cfg(name, features=tuple(CHANNELS), out_channels=64, norm="", **neck):
    cfg = get_cfg()
    add_fapn_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = name
    cfg.MODEL.FPN.IN_FEATURES = list(features)
    cfg.MODEL.FPN.OUT_CHANNELS = out_channels
    cfg.MODEL.FPN.NORM = norm
    cfg.MODEL.NECK.BOTTOM_UP = "build_given_maps"
    for key, value in neck.items():
        cfg.MODEL.NECK[key] = value
    return cfg


def toy_pyramid(name, **options):
    return build_backbone(toy_cfg(name, **options), ShapeSpec(channels=3))


def toy_maps(features=tuple(CHANNELS), size=(64, 96), batch=2, dtype=torch.float32, device="cpu"):
    """Random maps as a bottom-up network with ceil-rounding strides would give for an image of ``size``."""
    maps = {}
    for name in features:
        h, w = (-(-s // STRIDES[name]) for s in size)
        maps[name] = torch.randn(batch, CHANNELS[name], h, w, dtype=dtype, device=device)
    return maps
