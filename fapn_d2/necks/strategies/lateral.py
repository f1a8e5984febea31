"""LATERAL: what turns a bottom-up map into the pyramid's channels."""

import fvcore.nn.weight_init as weight_init
from detectron2.layers import Conv2d

from ...layers.conv import conv_norm, conv_norm_relu, xavier_uniform
from ...layers.feature_selection import FeatureSelection
from ..registry import LATERALS, Level


def _conv1x1(level: Level, *, bias: bool | None = None) -> Conv2d:
    return conv_norm(level.in_channels, level.out_channels, norm=level.norm, bias=bias)


@LATERALS.register
def conv1x1(level, neck):
    """FPN, Figure 3: a 1x1 convolution, with bias where there is no norm; initialised as in Detectron2."""
    conv = _conv1x1(level)
    weight_init.c2_xavier_fill(conv)
    return conv


@LATERALS.register
def conv1x1_default_init(level, neck):
    """As conv1x1, with PyTorch's own initialisation, as on the coarsest level in the official code of FaPN."""
    return _conv1x1(level)


@LATERALS.register
def conv1x1_xavier(level, neck):
    """As conv1x1, initialised as in mmdetection, for AugFPN and the FPN that it is compared with."""
    conv = _conv1x1(level)
    xavier_uniform(conv)
    return conv


@LATERALS.register
def conv1x1_no_bias(level, neck):
    """As conv1x1, without bias: the rows of FaPN's Tables 1 and I without the selection module."""
    conv = _conv1x1(level, bias=False)
    weight_init.c2_xavier_fill(conv)
    return conv


@LATERALS.register
def feature_selection(level, neck):
    """FaPN, Section 3.2: the feature selection module. It never has a norm, as in the official code."""
    return FeatureSelection(level.in_channels, level.out_channels)


@LATERALS.register
def squeeze_excite(level, neck):
    """FaPN, Table 1: the selection module without its skip connection."""
    return FeatureSelection(level.in_channels, level.out_channels, skip=False)


@LATERALS.register
def conv1x1_norm_relu(level, neck):
    """SFNet: with bias, norm and ReLU, as in the official code."""
    return conv_norm_relu(level.in_channels, level.out_channels, norm=level.norm, bias=True)
