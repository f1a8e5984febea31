"""CONTEXT: what is computed from the coarsest bottom-up map beside, or instead of, its lateral."""

from detectron2.config import CfgNode
from torch import nn

from ...layers.aspp import ASPP, DenseASPP
from ...layers.non_local import NonLocalContext
from ...layers.pyramid_pooling import PyramidPooling
from ...layers.residual_augmentation import ResidualAugmentation
from ..parts import Context
from ..registry import CONTEXTS, Level


@CONTEXTS.register
def none(level, neck):
    """FPN, FaPN: nothing."""
    return None


@CONTEXTS.register
def residual_augmentation(level, neck):
    """AugFPN, Section 3.2: the map pooled to several sizes and fused; added to the coarsest lateral."""
    return Context(
        ResidualAugmentation(level.in_channels, level.out_channels, **_arguments(neck.RESIDUAL_AUGMENTATION))
    )


@CONTEXTS.register
def ppm(level, neck):
    """SFNet, Section 3.3: pyramid pooling."""
    return _in_place_of_lateral(PyramidPooling, level, neck.PYRAMID_POOLING)


@CONTEXTS.register
def aspp(level, neck):
    """SFNet, Table 3: ASPP."""
    return _in_place_of_lateral(ASPP, level, neck.ASPP)


@CONTEXTS.register
def dense_aspp(level, neck):
    """SFNet, Table 3: DenseASPP."""
    return _in_place_of_lateral(DenseASPP, level, neck.DENSE_ASPP)


@CONTEXTS.register
def non_local(level, neck):
    """SFNet, Table 3: a non-local block."""
    return _in_place_of_lateral(NonLocalContext, level, neck.NON_LOCAL)


def _in_place_of_lateral(module: type[nn.Module], level: Level, numbers: CfgNode) -> Context:
    """SFNet, Section 3.3: the context module's output is the coarsest level; there is no lateral beside it."""
    built = module(level.in_channels, level.out_channels, norm=level.norm, **_arguments(numbers))
    return Context(built, replaces_lateral=True)


def _arguments(numbers: CfgNode) -> dict:
    """The keys of a node as arguments: each has the name of the argument that it sets, in capitals."""
    return {key.lower(): value for key, value in numbers.items()}
