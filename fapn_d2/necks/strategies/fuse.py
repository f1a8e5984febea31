"""FUSE: how the fine map and the aligned coarse map are joined."""

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.layers import Conv2d
from torch import nn

from ..parts import Part
from ..registry import FUSES


class Sum(Part):
    """(fine, aligned), both (N,C,H,W) -> their sum."""

    def forward(self, fine, aligned):
        return fine + aligned


class Average(nn.Module):
    """(fine, aligned), both (N,C,H,W) -> their mean."""

    def forward(self, fine, aligned):
        return (fine + aligned) / 2


class Concat(nn.Module):
    """(fine, aligned), both (N,C,H,W) -> 1x1 convolution of [aligned, fine] back to C channels, no bias.

    FaPN, Appendix B. The text names the aligned map first.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.reduce = Conv2d(2 * channels, channels, kernel_size=1, bias=False)
        weight_init.c2_xavier_fill(self.reduce)

    def forward(self, fine, aligned):
        return self.reduce(torch.cat([aligned, fine], dim=1))


@FUSES.register
def sum(level, neck):
    """FPN, FaPN: element-wise sum."""
    return Sum()


@FUSES.register
def avg(level, neck):
    """Element-wise mean, the other value of Detectron2's MODEL.FPN.FUSE_TYPE."""
    return Average()


@FUSES.register
def concat(level, neck):
    """FaPN, Appendix B and Table I: concatenation and a 1x1 convolution."""
    return Concat(level.out_channels)
