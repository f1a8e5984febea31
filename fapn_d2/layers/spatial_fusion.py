"""Fusions of n maps of one size into one map: AugFPN's adaptive fusions, and the sum and maximum it is compared with.

Guo et al., AugFPN, CVPR 2020, Sections 3.2 and 3.3, Figure 3, Table 5.
Legend: N images or regions, n maps, C channels, H x W size of a map.
"""

from collections.abc import Sequence

import torch
from detectron2.layers import Conv2d
from torch import nn
from torch.nn import functional as F

from .conv import xavier_uniform


class SumFusion(nn.Module):
    """n x (N,C,H,W) -> their sum, not their mean."""

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.stack(tuple(maps)).sum(dim=0)


class MaxFusion(nn.Module):
    """n x (N,C,H,W) -> their element-wise maximum: PANet's fusion without its fully connected layers."""

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.stack(tuple(maps)).amax(dim=0)


class WeightedFusion(nn.Module):
    """A fusion n x (N,C,H,W) -> (N,C,H,W) that weighs its maps by ``weights``, which it predicts from them."""

    def weights(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """n x (N,C,H,W) -> the weights of the n maps, (N,n,...)."""
        raise NotImplementedError


class AdaptiveSpatialFusion(WeightedFusion):
    """ASF: each map has one weight per position (Section 3.2, Figure 3a).

    [A_1 .. A_n] -> 1x1 convolution to C -> ReLU -> 3x3 convolution to n -> sigmoid; output = sum_j w_j A_j. The text
    does not name the gate. The official code has a sigmoid, so the weights of a position do not add up to 1.

    Args:
        channels: number of channels C of each map.
        num_maps: number of maps n.

    Shapes: n x (N,C,H,W) -> (N,C,H,W); ``weights``: -> (N,n,H,W).
    """

    def __init__(self, channels: int, num_maps: int):
        super().__init__()
        self.reduce = Conv2d(num_maps * channels, channels, kernel_size=1)
        self.gate = Conv2d(channels, num_maps, kernel_size=3, padding=1)
        xavier_uniform(self.reduce)
        xavier_uniform(self.gate)

    def weights(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.sigmoid(self.gate(F.relu(self.reduce(torch.cat(tuple(maps), dim=1)))))

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        return _weighted_sum(self.weights(maps).split(1, dim=1), maps)


class AdaptiveChannelFusion(WeightedFusion):
    """ACF: each channel of each map has one weight (Table 5).

    The paper shows the structure in Figure 3b only and says that it is "inspired by the SE module". No code was
    released. We read it as: global average of the concatenated maps -> 1x1 convolution to C (the width that ASF reduces
    to) -> ReLU -> 1x1 convolution to nC -> sigmoid; output = sum_j w_j A_j.

    Args:
        channels: number of channels C of each map.
        num_maps: number of maps n.

    Shapes: n x (N,C,H,W) -> (N,C,H,W); ``weights``: -> (N,n,C).
    """

    def __init__(self, channels: int, num_maps: int):
        super().__init__()
        self.num_maps = num_maps
        self.squeeze = Conv2d(num_maps * channels, channels, kernel_size=1)
        self.excite = Conv2d(channels, num_maps * channels, kernel_size=1)
        xavier_uniform(self.squeeze)
        xavier_uniform(self.excite)

    def weights(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        pooled = torch.cat([m.mean(dim=(2, 3), keepdim=True) for m in maps], dim=1)
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(pooled))))
        return gate.flatten(1).unflatten(1, (self.num_maps, -1))

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        return _weighted_sum([w[..., None, None] for w in self.weights(maps).unbind(dim=1)], maps)


def _weighted_sum(weights: Sequence[torch.Tensor], maps: Sequence[torch.Tensor]) -> torch.Tensor:
    fused = weights[0] * maps[0]
    for weight, value in zip(weights[1:], maps[1:]):
        fused = fused + weight * value
    return fused


FUSIONS = {
    "sum": lambda channels, num_maps: SumFusion(),
    "max": lambda channels, num_maps: MaxFusion(),
    "acf": AdaptiveChannelFusion,
    "asf": AdaptiveSpatialFusion,
}


def build_fusion(name: str, channels: int, num_maps: int, *, key: str, also_allowed: tuple[str, ...] = ()) -> nn.Module:
    """The fusion with a given name.

    Args:
        name: one of FUSIONS.
        channels: number of channels C of each map.
        num_maps: number of maps n.
        key: config key that the name comes from, for the message.
        also_allowed: names that the caller handles itself, for the message.

    Raises:
        ValueError: unknown name; the message has the key and the allowed names.
    """
    if name not in FUSIONS:
        raise ValueError(f"{key}: unknown fusion {name!r}; allowed: {', '.join([*also_allowed, *FUSIONS])}")
    return FUSIONS[name](channels, num_maps)
