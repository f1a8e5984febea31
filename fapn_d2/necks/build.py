"""From a config to a pyramid: one builder per paper in Detectron2's BACKBONE registry, with the paper's preset."""

import math

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
    """The pyramid that MODEL.NECK describes; FPN where it says nothing, with P6 by max-pooling for RPN."""
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

    In training it gives the raw laterals too, for the Consistent Supervision of ``AugFPNROIHeads``.
    """
    return build_pyramid(cfg, input_shape, preset="augfpn", top_block="max_pool", extra_outputs=("lateral",))


@BACKBONE_REGISTRY.register()
def build_retinanet_resnet_augfpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TopDownPyramid:
    """AugFPN with P6 and P7 of its one-stage code: replaces ``build_retinanet_resnet_fpn_backbone``."""
    return build_pyramid(cfg, input_shape, preset="augfpn", top_block="p6p7_context", extra_outputs=("lateral",))


@BACKBONE_REGISTRY.register()
def build_resnet_sfnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TopDownPyramid:
    """SFNet's aligned pyramid with P6 by max-pooling: replaces ``build_resnet_fpn_backbone`` in R-CNN and Panoptic FPN.

    Its norm is MODEL.FPN.NORM, which detectors leave empty and SFNet's own networks set.
    """
    return build_pyramid(cfg, input_shape, preset="sfnet", top_block="max_pool")


@BACKBONE_REGISTRY.register()
def build_timm_pyramid_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TopDownPyramid:
    """The pyramid that MODEL.NECK describes on the network MODEL.TIMM.NAME, with P6 by max-pooling.

    Raises:
        ValueError: MODEL.NECK.BOTTOM_UP names another network; else as :func:`build_pyramid`.
    """
    named = cfg.MODEL.NECK.BOTTOM_UP
    if named not in (neck_defaults().BOTTOM_UP, "build_timm_backbone"):
        raise ValueError(
            f"MODEL.NECK.BOTTOM_UP = {named!r}, but MODEL.BACKBONE.NAME = 'build_timm_pyramid_backbone' is for "
            "networks of timm; leave it out, or name the builder 'build_pyramid_backbone'"
        )
    return build_pyramid(cfg, input_shape, preset=None, top_block="max_pool", bottom_up="build_timm_backbone")


def build_pyramid(
    cfg: CfgNode,
    input_shape: ShapeSpec,
    *,
    preset: str | None,
    top_block: str,
    extra_outputs: tuple[str, ...] = (),
    bottom_up: str = "",
) -> TopDownPyramid:
    """Build a bottom-up network and the pyramid on it.

    Args:
        cfg: MODEL.NECK (its defaults where the config has none), MODEL.FPN and what the bottom-up builder reads.
        input_shape: channels of the image.
        preset: the builder's own preset, which MODEL.NECK.PRESET may not contradict; None leaves it to that key.
        top_block: what MODEL.NECK.TOP_BLOCK is when it is left at None.
        extra_outputs: what MODEL.NECK.EXTRA_OUTPUTS has besides what it names.
        bottom_up: takes the place of MODEL.NECK.BOTTOM_UP.

    Raises:
        ValueError: a name that is not registered, a list of the wrong length, a feature that the bottom-up network does
            not have, or strategies that do not go together; the message says which and what is allowed.
    """
    neck = cfg.MODEL.NECK if "NECK" in cfg.MODEL else neck_defaults()
    if preset and neck.PRESET not in ("", preset):
        raise ValueError(
            f"MODEL.NECK.PRESET = {neck.PRESET!r}, but MODEL.BACKBONE.NAME = {cfg.MODEL.BACKBONE.NAME!r} is {preset!r}"
            "; leave PRESET empty, or name the builder 'build_pyramid_backbone', which takes any preset"
        )
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
    shapes: dict[str, ShapeSpec], features: list[str], *, out_channels: int, norm: str, merges: list[str]
) -> list[Level]:
    """Levels of a pyramid over the bottom-up maps ``features``, finest first.

    The stage of a level is log2 of its stride, as in Detectron2; where strides are not consecutive powers of two (DF1
    has two maps of stride 32), stages count up from the finest level's.

    Raises:
        ValueError: a feature that ``shapes`` does not have, or features that are not ordered from fine to coarse.
    """
    missing = [f for f in features if f not in shapes]
    if missing or not features:
        raise ValueError(
            f"MODEL.FPN.IN_FEATURES = {features}: the bottom-up network gives {list(shapes)}"
            + (f", not {missing}; add them to its OUT_FEATURES or drop them here" if missing else "; name at least one")
        )
    strides = [shapes[f].stride for f in features]
    if strides != sorted(strides):
        raise ValueError(f"MODEL.FPN.IN_FEATURES = {features} have strides {strides}; order them from fine to coarse")
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
