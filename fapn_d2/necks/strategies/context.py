"""CONTEXT: what is computed from the coarsest bottom-up map beside, or instead of, its lateral."""

from fapn_d2.layers.residual_augmentation import ResidualAugmentation

from ..registry import CONTEXTS


@CONTEXTS.register
def none(level, neck):
    """FPN, FaPN: nothing."""
    return None


@CONTEXTS.register
def residual_augmentation(level, neck):
    """AugFPN, Section 3.2: context pooled to several sizes and fused, added to the coarsest lateral."""
    options = neck.RESIDUAL_AUGMENTATION
    return ResidualAugmentation(
        level.in_channels,
        level.out_channels,
        pooling=options.POOLING,
        ratios=options.RATIOS,
        sizes=options.SIZES,
        fusion=options.FUSION,
    )
