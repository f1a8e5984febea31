"""OUTPUT: what turns a merged map into the P_i that heads read."""

import fvcore.nn.weight_init as weight_init
from detectron2.layers import Conv2d
from torch import nn

from ...layers.conv import conv_norm, conv_norm_relu
from ..registry import OUTPUTS, Level


def _conv3x3(level: Level) -> Conv2d:
    conv = conv_norm(level.out_channels, level.out_channels, kernel_size=3, norm=level.norm)
    weight_init.c2_xavier_fill(conv)
    return conv


@OUTPUTS.register
def conv3x3(level, neck):
    """FPN, Section 3: one 3x3 convolution without activation; it has a bias where there is no norm."""
    return _conv3x3(level)


@OUTPUTS.register
def conv3x3_thrice(level, neck):
    """FaPN, Table 1, "extra 3x3 conv.". Two more than FPN on each level give the printed parameter count."""
    return nn.Sequential(_conv3x3(level), _conv3x3(level), _conv3x3(level))


@OUTPUTS.register
def identity(level, neck):
    """No convolution: FaPN's coarsest level, and all levels of its real-time variant."""
    return nn.Identity()


@OUTPUTS.register
def conv3x3_norm_relu(level, neck):
    """SFNet: a 3x3 convolution with norm and ReLU."""
    return conv_norm_relu(level.out_channels, level.out_channels, kernel_size=3, norm=level.norm)
