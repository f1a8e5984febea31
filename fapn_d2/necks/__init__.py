"""Feature pyramids: one top-down loop, strategies for each of its parts, and one preset per paper."""

from .build import (
    build_pyramid_backbone,
    build_resnet_augfpn_backbone,
    build_resnet_fapn_backbone,
    build_resnet_sfnet_backbone,
    build_retinanet_resnet_augfpn_backbone,
    build_retinanet_resnet_fapn_backbone,
    build_timm_pyramid_backbone,
)
from .topdown import TopDownPyramid

__all__ = [
    "TopDownPyramid",
    "build_pyramid_backbone",
    "build_resnet_augfpn_backbone",
    "build_resnet_fapn_backbone",
    "build_resnet_sfnet_backbone",
    "build_retinanet_resnet_augfpn_backbone",
    "build_retinanet_resnet_fapn_backbone",
    "build_timm_pyramid_backbone",
]
