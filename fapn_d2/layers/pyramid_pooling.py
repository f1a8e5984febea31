"""Pyramid pooling module (PPM): Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017, as SFNet has it.

Legend: N images, C channels in, D channels out, h x w size of the map.
"""

from collections.abc import Sequence

import torch
from detectron2.layers import Conv2d, get_norm
from detectron2.utils.comm import get_world_size
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from .conv import conv_norm_relu
from .resize import resize_to


def average_cells(x: Tensor, bins: int) -> Tensor:
    """``F.adaptive_avg_pool2d`` as two matrix products: (N,C,h,w) -> (N,C,bins,bins).

    Unlike that operator, it can be exported with h and w left free.
    """
    rows, columns = (_averages(size, bins, x) for size in x.shape[-2:])
    return rows @ x @ columns.mT


def _averages(size: int, bins: int, like: Tensor) -> Tensor:
    """(bins, size): row i averages the pixels from floor(i size / bins) to below ceil((i + 1) size / bins)."""
    cell = torch.arange(bins, device=like.device)[:, None]
    pixel = torch.arange(size, device=like.device)
    start, end = cell * size // bins, ((cell + 1) * size + bins - 1) // bins
    inside = (pixel >= start) & (pixel < end)
    return inside.to(like.dtype) / (end - start).to(like.dtype)


class PooledBranch(nn.Module):
    """(N,C,h,w) -> average over ``bins`` x ``bins`` cells -> 1x1 convolution, norm -> bilinear -> (N,D,h,w)."""

    def __init__(self, in_channels: int, out_channels: int, *, bins: int, norm: str = "BN", align_corners: bool = True):
        super().__init__()
        self.bins = bins
        self.resize_mode = "bilinear_corners" if align_corners else "bilinear"
        self.conv = Conv2d(in_channels, out_channels, kernel_size=1, bias=norm == "")
        self.norm = get_norm(norm, out_channels) or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        pool = average_cells if torch.compiler.is_exporting() else F.adaptive_avg_pool2d
        y = self._normalize(self.conv(pool(x, self.bins)))
        return resize_to(y, x.shape[-2:], self.resize_mode)

    def _normalize(self, y: Tensor) -> Tensor:
        norm = self.norm
        single = self.training and isinstance(norm, _BatchNorm) and y.shape[0] * self.bins**2 == 1
        if single and not (isinstance(norm, nn.SyncBatchNorm) and get_world_size() > 1):
            # With one image and one cell, a single value per channel has no variance, and PyTorch raises an error. The
            # running statistics are used instead.
            return F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        return norm(y)

    def extra_repr(self) -> str:
        return f"bins={self.bins}, resize_mode={self.resize_mode}"


class PyramidPooling(nn.Module):
    """Averages over regions of several sizes are added to each pixel: [pooled maps, x] -> convolution, norm, ReLU,
    dropout.

    As in SFNet's official code, the branches have D channels each and no ReLU.

    Args:
        in_channels, out_channels: C and D.
        bins: number of cells along each side, one entry per branch. The branches are concatenated in this order, before
            ``x``.
        kernel_size: kernel of the last convolution: 1 in SFNet's official code, 3 in PSPNet.
        norm: name for Detectron2's ``get_norm``; the convolutions have a bias where it is "".
        dropout: probability that a whole channel of the result is dropped in training.
        align_corners: whether the bilinear upsampling of the pooled maps uses ``align_corners``.

    Shapes: (N,C,h,w) -> (N,D,h,w).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bins: Sequence[int] = (1, 2, 3, 6),
        kernel_size: int = 1,
        norm: str = "BN",
        dropout: float = 0.1,
        align_corners: bool = True,
    ):
        super().__init__()
        self.branches = nn.ModuleList(
            PooledBranch(in_channels, out_channels, bins=b, norm=norm, align_corners=align_corners) for b in bins
        )
        width = in_channels + len(bins) * out_channels
        self.bottleneck = conv_norm_relu(width, out_channels, kernel_size=kernel_size, norm=norm)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        pooled = [branch(x) for branch in self.branches]
        return self.dropout(self.bottleneck(torch.cat([*pooled, x], dim=1)))
