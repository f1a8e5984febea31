"""Atrous spatial pyramids: ASPP and DenseASPP, two of the context modules in SFNet's Table 3.

SFNet cites the papers of these modules and does not say how it builds them. The structure here is the usual one. The
widths are chosen so that the GFLOPs with ResNet-18 come near SFNet's: 276.3 for ASPP (the paper has 276.6) and 282.4
for DenseASPP (282.3). Other widths would fit as well.

Legend: N images, C channels in, D channels out, h x w size of the map.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .conv import conv_norm_relu
from .pyramid_pooling import PooledBranch


class ASPP(nn.Module):
    """Dilated convolutions side by side: Chen et al., "Rethinking Atrous Convolution", 2017.

    The branches are a 1x1 convolution, one 3x3 convolution per dilation, and the mean of the image. Then, as in pyramid
    pooling, [branches, x] -> 3x3 convolution, norm, ReLU, dropout.

    Args:
        in_channels, out_channels: C and D.
        channels: number of channels of each branch.
        dilations: dilations of the 3x3 convolutions, in pixels of the map.
        norm, dropout, align_corners: as in ``PyramidPooling``.

    Shapes: (N,C,h,w) -> (N,D,h,w).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        channels: int = 512,
        dilations: Sequence[int] = (6, 12, 18, 24),
        norm: str = "BN",
        dropout: float = 0.1,
        align_corners: bool = True,
    ):
        super().__init__()
        self.branches = nn.ModuleList([conv_norm_relu(in_channels, channels, norm=norm)])
        for dilation in dilations:
            self.branches.append(conv_norm_relu(in_channels, channels, kernel_size=3, dilation=dilation, norm=norm))
        self.branches.append(PooledBranch(in_channels, channels, bins=1, norm=norm, align_corners=align_corners))
        width = len(self.branches) * channels + in_channels
        self.bottleneck = conv_norm_relu(width, out_channels, kernel_size=3, norm=norm)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.bottleneck(torch.cat([*(branch(x) for branch in self.branches), x], dim=1)))


class DenseASPP(nn.Module):
    """Dilated convolutions in a row, each of which sees the outputs of all before it: Yang et al., CVPR 2018.

    A 3x3 reduction of C, then for each dilation a 1x1 and a dilated 3x3 convolution whose result joins the map, then a
    1x1 convolution to D; all with norm and ReLU.

    Args:
        in_channels, out_channels: C and D.
        reduced: number of channels after the reduction.
        channels: number of output channels of the 1x1 convolution before each dilated convolution.
        growth: number of output channels of each dilated convolution.
        dilations: dilations of the 3x3 convolutions, in pixels of the map.
        norm: name for Detectron2's ``get_norm``.
        dropout: probability that a whole channel is dropped, after each dilation.

    Shapes: (N,C,h,w) -> (N,D,h,w).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        reduced: int = 256,
        channels: int = 512,
        growth: int = 512,
        dilations: Sequence[int] = (3, 6, 12, 18, 24),
        norm: str = "BN",
        dropout: float = 0.1,
    ):
        super().__init__()
        self.reduce = conv_norm_relu(in_channels, reduced, kernel_size=3, norm=norm)
        self.blocks = nn.ModuleList()
        width = reduced
        for dilation in dilations:
            self.blocks.append(
                nn.Sequential(
                    conv_norm_relu(width, channels, norm=norm),
                    conv_norm_relu(channels, growth, kernel_size=3, dilation=dilation, norm=norm),
                    nn.Dropout2d(dropout),
                )
            )
            width += growth
        self.bottleneck = conv_norm_relu(width, out_channels, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        for block in self.blocks:
            x = torch.cat([block(x), x], dim=1)
        return self.bottleneck(x)
