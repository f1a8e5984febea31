"""From a config to a pyramid: one builder per paper in Detectron2's BACKBONE registry, with the paper's preset."""

import math

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import nn

from ..config.keys import neck_defaults
from . import strategies  # noqa: F401  (imported to register)
from .parts import Align, Context, Merge
from .presets import resolve_strategies
from .registry import ALIGNS, CONTEXTS, FUSES, LATERALS, MERGES, OUTPUTS, Level
from .top_blocks import build_top_block
from .topdown import TopDownPyramid


@BACKBONE_REGISTRY.register()
def build_pyramid_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TopDownPyramid:
    """The pyramid that MODEL.NECK describes, with P6 by max-pooling for RPN. With the default keys it is FPN."""
    return build_pyramid(cfg, input_shape, preset=None, top_block="max_pool")


@BACKBONE_REGISTRY.register()
def build_resnet_fapn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TopDownPyramid:
    """FaPN with P6 by max-pooling: replaces ``build_resnet_fpn_backbone`` in R-CNN, Panoptic FPN and PointRend."""
    return build_pyramid(cfg, input_shape, preset="fapn", top_block="max_pool")


@BACKBONE_REGISTRY.register()
def build_retinanet_resnet_fapn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TopDownPyramid:
    """FaPN with P6 and P7 by convolutions on C5: replaces ``build_retinanet_resnet_fpn_backbone``."""
    return build_pyramid(cfg, input_shape, preset="fapn", top_block="p6p7")


@BACKBONE_REGISTRY.register()
def build_resnet_augfpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TopDownPyramid:
    """AugFPN with P6 by max-pooling: replaces ``build_resnet_fpn_backbone`` in R-CNN.

    In training mode it also gives the laterals, for the Consistent Supervision of ``AugFPNROIHeads``.
    """
    return build_pyramid(cfg, input_shape, preset="augfpn", top_block="max_pool", extra_outputs=("lateral",))


@BACKBONE_REGISTRY.register()
def build_retinanet_resnet_augfpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TopDownPyramid:
    """AugFPN with P6 and P7 as in its one-stage code: replaces ``build_retinanet_resnet_fpn_backbone``."""
    return build_pyramid(cfg, input_shape, preset="augfpn", top_block="p6p7_context", extra_outputs=("lateral",))


@BACKBONE_REGISTRY.register()
def build_resnet_sfnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TopDownPyramid:
    """SFNet's aligned pyramid with P6 by max-pooling: replaces ``build_resnet_fpn_backbone`` in R-CNN and Panoptic FPN.

    Its norm is MODEL.FPN.NORM. Configs of detectors leave it empty; those of SFNet's own networks set it.
    """
    return build_pyramid(cfg, input_shape, preset="sfnet", top_block="max_pool")


@BACKBONE_REGISTRY.register()
def build_timm_pyramid_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TopDownPyramid:
    """The pyramid that MODEL.NECK describes on the network MODEL.TIMM.NAME, with P6 by max-pooling.

    Raises:
        ValueError: MODEL.NECK.BOTTOM_UP names another network, or what :func:`build_pyramid` raises.
    """
    named = cfg.MODEL.NECK.BOTTOM_UP
    if named not in (neck_defaults().BOTTOM_UP, "build_timm_backbone"):
        raise ValueError(
            f"MODEL.NECK.BOTTOM_UP = {named!r}, but MODEL.BACKBONE.NAME = 'build_timm_pyramid_backbone' is for "
            "networks of timm; leave it out, or name the builder 'build_pyramid_backbone'"
        )
    return build_pyramid(cfg, input_shape, preset=None, top_block="max_pool", bottom_up="build_timm_backbone")


@BACKBONE_REGISTRY.register()
def build_bottom_up_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """The network that MODEL.NECK.BOTTOM_UP names, without a pyramid: for networks whose head has one, as MaskFormer's.

    Raises:
        ValueError: a name that is not registered.
    """
    neck = cfg.MODEL.NECK if "NECK" in cfg.MODEL else neck_defaults()
    return _build_bottom_up(cfg, neck.BOTTOM_UP, input_shape)


class GivenMaps(Backbone):
    """In place of a bottom-up network where its maps are there already: maps by name -> the same.

    Args:
        shapes: the shapes of the maps.
    """

    def __init__(self, shapes: dict[str, ShapeSpec]):
        super().__init__()
        self._shapes = dict(shapes)

    def forward(self, maps: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return maps

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self._shapes


def build_pyramid(
    cfg: CfgNode,
    input_shape: ShapeSpec,
    *,
    preset: str | None,
    top_block: str,
    extra_outputs: tuple[str, ...] = (),
    bottom_up: str | Backbone = "",
) -> TopDownPyramid:
    """Build a bottom-up network and the pyramid on it.

    Args:
        cfg: config of which MODEL.NECK (or its defaults), MODEL.FPN and the keys of the bottom-up builder are read.
        input_shape: number of channels of the image.
        preset: the preset of the builder, which MODEL.NECK.PRESET must not contradict; None: that key decides.
        top_block: the value of MODEL.NECK.TOP_BLOCK where the config leaves it at None.
        extra_outputs: kinds of maps that are given in addition to MODEL.NECK.EXTRA_OUTPUTS.
        bottom_up: the bottom-up network or the name of its builder; empty: MODEL.NECK.BOTTOM_UP.

    Raises:
        ValueError: a name is not registered, a list has the wrong length, the bottom-up network lacks a feature, or two
            strategies do not fit together. The message says which, and what is allowed.
    """
    neck = cfg.MODEL.NECK if "NECK" in cfg.MODEL else neck_defaults()
    if preset and neck.PRESET not in ("", preset):
        raise ValueError(
            f"MODEL.NECK.PRESET = {neck.PRESET!r}, but MODEL.BACKBONE.NAME = {cfg.MODEL.BACKBONE.NAME!r} is {preset!r}"
            "; leave PRESET empty, or name the builder 'build_pyramid_backbone', which takes any preset"
        )
    if not isinstance(bottom_up, Backbone):
        bottom_up = _build_bottom_up(cfg, bottom_up or neck.BOTTOM_UP, input_shape)
    features = list(cfg.MODEL.FPN.IN_FEATURES)
    names = resolve_strategies(cfg, neck, preset=preset or neck.PRESET or "fpn", num_levels=len(features))
    levels = describe_levels(
        bottom_up.output_shape(),
        features,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        merges=names["MERGE"],
    )
    merges = [MERGES.build(name) for name in names["MERGE"]]
    context = CONTEXTS.build(names["CONTEXT"][0], levels[-1], neck)
    if isinstance(context, nn.Module):
        context = Context(context)
    extension = build_top_block(neck, neck.TOP_BLOCK or top_block, bottom_up.output_shape(), levels)
    laterals, outputs, aligns, fuses = [], [], [], []
    for i, level in enumerate(levels):
        merge = merges[i] if i < len(merges) else None
        used = merge.uses_lateral if merge else context is None or not context.replaces_lateral
        laterals.append(LATERALS.build(names["LATERAL"][i], level, neck) if used else None)
        outputs.append(OUTPUTS.build(names["OUTPUT"][i], level, neck))
        if merge:
            aligns.append(ALIGNS.build(names["ALIGN"][i], level, neck) if merge.uses_coarse else None)
            fuses.append(FUSES.build(names["FUSE"][i], level, neck) if merge.fuses else None)
            _check_merge(merge, aligns[-1], names["MERGE"][i], names["ALIGN"][i])
    return TopDownPyramid(
        bottom_up,
        levels=levels,
        laterals=laterals,
        aligns=aligns,
        fuses=fuses,
        merges=merges,
        outputs=outputs,
        context=context.module if context else None,
        top_block=extension,
        extra_outputs=dict.fromkeys([*extra_outputs, *neck.EXTRA_OUTPUTS]),
    )


def describe_levels(
    shapes: dict[str, ShapeSpec],
    features: list[str],
    *,
    out_channels: int,
    norm: str,
    merges: list[str],
    key: str = "MODEL.FPN.IN_FEATURES",
) -> list[Level]:
    """The levels of a pyramid, finest first.

    The stage of a level is log2 of its stride, as in Detectron2. Where strides are not consecutive powers of two (DF1
    has two maps of stride 32), stages count up from the stage of the finest level.

    Args:
        shapes: channels and stride of the bottom-up maps by name.
        features: names of the maps that the levels are built on, finest first.
        out_channels: number of channels of the pyramid.
        norm: name for Detectron2's ``get_norm``.
        merges: names of the MERGE strategies, one per level but the coarsest.
        key: the config key of ``features``, for messages.

    Raises:
        ValueError: ``shapes`` lacks a feature, or the features are not ordered from fine to coarse.
    """
    missing = [f for f in features if f not in shapes]
    if missing or not features:
        raise ValueError(
            f"{key} = {features}: the bottom-up network gives {list(shapes)}"
            + (f", not {missing}; add them to its OUT_FEATURES or drop them here" if missing else "; name at least one")
        )
    strides = [shapes[f].stride for f in features]
    if strides != sorted(strides):
        raise ValueError(f"{key} = {features} have strides {strides}; order them from fine to coarse")
    first = int(math.log2(strides[0]))
    return [
        Level(
            feature=feature,
            stage=first + i,
            stride=strides[i],
            in_channels=shapes[feature].channels,
            out_channels=out_channels,
            norm=norm,
            merge=merges[i] if i < len(merges) else "",
        )
        for i, feature in enumerate(features)
    ]


def _build_bottom_up(cfg: CfgNode, name: str, input_shape: ShapeSpec) -> Backbone:
    if name not in BACKBONE_REGISTRY:
        allowed = sorted(known for known, _ in BACKBONE_REGISTRY)
        raise ValueError(f"MODEL.NECK.BOTTOM_UP: no backbone is registered as {name!r}; known: {allowed}")
    return BACKBONE_REGISTRY.get(name)(cfg, input_shape)


def _check_merge(merge: Merge, align: Align | None, merge_name: str, align_name: str) -> None:
    if align is None:
        return
    if merge.aligns_fused and not align.fused_input:
        raise ValueError(
            f"MODEL.NECK.MERGE {merge_name!r} aligns a fused map, which ALIGN {align_name!r} cannot do; use ALIGN "
            "'deform' or MERGE 'align_then_fuse'"
        )
    if not merge.uses_lateral and align.needs_fine_features:
        raise ValueError(
            f"MODEL.NECK.MERGE {merge_name!r} has no lateral map, which ALIGN {align_name!r} reads; "
            "use ALIGN 'nearest' or 'bilinear'"
        )
