"""The kernels of objects and regions: PanopticFCN, Section 3.1, "Kernel Head", and the last layer of its kernels."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .tower import Tower, predictor


class KernelHead(nn.Module):
    """The kernel map: at every position the weights of the kernel that an object centred there would have.

    Args:
        tower: the hidden layers.
        channels: the number of output channels of ``tower``, and C.

    Shapes: one map (N, in_channels, h, w) per level -> (N,C,h,w) per level; the levels share all weights.
    """

    def __init__(self, tower: Tower, channels: int):
        super().__init__()
        self.tower = tower
        self.kernel = predictor(channels, channels)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return [self.kernel(self.tower(x)) for x in features]


class KernelEmbedding(nn.Module):
    """Brings kernels to the width of the encoded feature. There is one for things and one for stuff.

    Args:
        channels: the number of channels C of a kernel.
        embedded: the number of channels E of the encoded feature.
    """

    def __init__(self, channels: int, embedded: int):
        super().__init__()
        self.embed = predictor(channels, embedded, kernel_size=1)

    def forward(self, kernels: Tensor) -> Tensor:
        """(M,C) -> (M,E)."""
        return F.linear(kernels, self.embed.weight.flatten(1), self.embed.bias)


def mask_logits(kernels: Tensor, encoded: Tensor) -> Tensor:
    """Kernels (M,E) on the encoded feature (E,H,W) of their image -> mask logits (M,H,W): PanopticFCN, Equation 2."""
    return torch.einsum("me,ehw->mhw", kernels, encoded)
