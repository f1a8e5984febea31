"""CONTEXT: what is computed from the coarsest bottom-up map beside, or instead of, its lateral."""

from torch import nn

from ...layers.aspp import ASPP, DenseASPP
from ...layers.non_local import NonLocalContext
from ...layers.pyramid_pooling import PyramidPooling
from ...layers.residual_augmentation import ResidualAugmentation
from ..parts import Context
from ..registry import CONTEXTS


@CONTEXTS.register
def none(level, neck):
    """FPN, FaPN: nothing."""
    return None


@CONTEXTS.register
def residual_augmentation(level, neck):
    """AugFPN, Section 3.2: the map pooled to several sizes and fused; added to the coarsest lateral."""
    options = neck.RESIDUAL_AUGMENTATION
    return Context(
        ResidualAugmentation(
            level.in_channels,
            level.out_channels,
            pooling=options.POOLING,
            ratios=options.RATIOS,
            sizes=options.SIZES,
            fusion=options.FUSION,
        )
    )


def _in_place_of_lateral(module: nn.Module) -> Context:
    """SFNet, Section 3.3: the context module's output is the coarsest level; there is no lateral beside it."""
    return Context(module, replaces_lateral=True)


@CONTEXTS.register
def ppm(level, neck):
    """SFNet, Section 3.3: pyramid pooling."""
    options = neck.PYRAMID_POOLING
    return _in_place_of_lateral(
        PyramidPooling(
            level.in_channels,
            level.out_channels,
            bins=options.BINS,
            kernel_size=options.KERNEL_SIZE,
            norm=level.norm,
            dropout=options.DROPOUT,
            align_corners=options.ALIGN_CORNERS,
        )
    )


@CONTEXTS.register
def aspp(level, neck):
    """SFNet, Table 3: ASPP."""
    options = neck.ASPP
    return _in_place_of_lateral(
        ASPP(
            level.in_channels,
            level.out_channels,
            channels=options.CHANNELS,
            dilations=options.DILATIONS,
            norm=level.norm,
            dropout=options.DROPOUT,
        )
    )


@CONTEXTS.register
def dense_aspp(level, neck):
    """SFNet, Table 3: DenseASPP."""
    options = neck.DENSE_ASPP
    return _in_place_of_lateral(
        DenseASPP(
            level.in_channels,
            level.out_channels,
            reduced=options.REDUCED,
            channels=options.CHANNELS,
            growth=options.GROWTH,
            dilations=options.DILATIONS,
            norm=level.norm,
            dropout=options.DROPOUT,
        )
    )


@CONTEXTS.register
def non_local(level, neck):
    """SFNet, Table 3: a non-local block."""
    options = neck.NON_LOCAL
    return _in_place_of_lateral(
        NonLocalContext(
            level.in_channels,
            level.out_channels,
            channels=options.CHANNELS,
            key_channels=options.KEY_CHANNELS,
            hidden=options.HIDDEN,
            norm=level.norm,
            dropout=options.DROPOUT,
        )
    )
