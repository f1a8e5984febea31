"""The modulated deformable convolution as bilinear sampling and one matrix product, which every runtime can run.

It is for exports only, because it keeps all samples in memory at once: K times the map. The other kernels keep a part.

Letters: N images, C input and O output channels, H x W input and h x w output size, K = kh*kw taps, G offset groups.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .module import ModulatedDeformConv2d


class SampledDeformConv2d(nn.Module):
    """Replaces a ``ModulatedDeformConv2d`` and shares its parameters; the outputs are equal up to rounding."""

    def __init__(self, original: ModulatedDeformConv2d):
        super().__init__()
        self.weight, self.bias = original.weight, original.bias
        self.stride, self.padding, self.dilation = original.stride, original.padding, original.dilation

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor | None) -> Tensor:
        """x (N, C, H, W), offset (N, 2*G*K, h, w), mask (N, G*K, h, w) or None -> (N, O, h, w)."""
        n, channels, height, width = x.shape
        taps = self.weight.shape[2] * self.weight.shape[3]
        groups = offset.shape[1] // (2 * taps)
        size = offset.shape[-2:]
        grid = self._grid(offset.reshape(n * groups, taps, 2, *size), height, width)
        samples = F.grid_sample(
            x.reshape(n * groups, channels // groups, height, width),
            grid.reshape(n * groups, taps * size[0], size[1], 2),
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,
        ).reshape(n, groups, channels // groups, taps, size[0] * size[1])
        if mask is not None:
            samples = samples * mask.reshape(n, groups, 1, taps, size[0] * size[1])
        samples = samples.reshape(n, channels * taps, size[0] * size[1])
        y = (self.weight.flatten(1) @ samples).reshape(n, self.weight.shape[0], *size)
        return y if self.bias is None else y + self.bias[:, None, None]

    def _grid(self, offset: Tensor, height: int, width: int) -> Tensor:
        """Offsets (NG,K,2,h,w) in pixels -> positions (NG,K,h,w,2), (x, y) from -1 to 1.

        -1 and 1 are the outer edges of the map, because the centres of its outermost pixels coincide where the map is
        one pixel wide.
        """
        tap = torch.arange(offset.shape[1], device=offset.device)[:, None, None]
        row, column = (torch.arange(side, device=offset.device) for side in offset.shape[-2:])
        row = row[:, None] * self.stride[0] - self.padding[0] + tap // self.weight.shape[3] * self.dilation[0]
        column = column * self.stride[1] - self.padding[1] + tap % self.weight.shape[3] * self.dilation[1]
        y, x = offset[:, :, 0] + row, offset[:, :, 1] + column
        return torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)


def sample_deform_convs(network: nn.Module) -> int:
    """Replace every deformable convolution in ``network`` by a ``SampledDeformConv2d``; returns how many there were."""
    found = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if isinstance(child, ModulatedDeformConv2d)
    ]
    for parent, name, child in found:
        setattr(parent, name, SampledDeformConv2d(child))
    return len(found)
