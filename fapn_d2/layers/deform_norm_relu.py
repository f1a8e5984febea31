"""A modulated deformable convolution that predicts its offsets from its own input, with norm and ReLU.

Zhu et al., "Deformable ConvNets v2", CVPR 2019, Section 3.2, in the form that PanopticFCN's position head uses.
"""

import math

from detectron2.layers import get_norm
from torch import Tensor, nn
from torch.nn import functional as F

from .deform_conv.module import ModulatedDeformConv2d


class DeformConvNormRelu(nn.Module):
    """3x3 deformable convolution without bias, norm, ReLU; a plain 3x3 convolution predicts offsets and masks.

    Args:
        in_channels, out_channels: the numbers of channels of the maps.
        norm: name for Detectron2's ``get_norm``.
        backend: the backend of the deformable convolution; None: the process's choice.

    Shapes: (N, in_channels, H, W) -> (N, out_channels, H, W).

    Initialised as in PanopticFCN's official code: the weights uniform within sqrt(6 / fan-in) of zero, the convolution
    of the offsets as PyTorch does it, so offsets are not zero at the start.
    """

    def __init__(self, in_channels: int, out_channels: int, *, norm: str, backend: str | None = None):
        super().__init__()
        self.deform_conv = ModulatedDeformConv2d(in_channels, out_channels, 3, padding=1, bias=False, backend=backend)
        bound = math.sqrt(6 / self.deform_conv.weight[0].numel())
        nn.init.uniform_(self.deform_conv.weight, -bound, bound)
        self.num_offsets = self.deform_conv.offset_channels
        self.offset_mask = nn.Conv2d(in_channels, self.num_offsets * 3 // 2, 3, padding=1)
        self.norm = get_norm(norm, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        offset, mask = self.offset_mask(x).split([self.num_offsets, self.num_offsets // 2], dim=1)
        x = self.deform_conv(x, offset, mask.sigmoid())
        if self.norm is not None:
            x = self.norm(x)
        return F.relu(x)
