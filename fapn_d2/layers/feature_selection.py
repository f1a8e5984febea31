"""Feature selection module (FSM) of FaPN: Huang et al., ICCV 2021, Section 3.2, Equations 4 and 5.

Legend: N images, C channels in, D channels out, H x W size of the map.
"""

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.layers import Conv2d
from torch import nn

from .memory_layout import layout_of


class FeatureSelection(nn.Module):
    """Weigh the channels of a bottom-up map by their importance, then reduce them to D.

    u = sigmoid(W_m GAP(c)) in (0, 1), one value a channel and image (Equation 4, f_m);
    output = W_s (c + u c) (Equation 4, f_s). Both W are 1x1, without bias, norm or activation, as in the official code.

    Args:
        in_channels: C.
        out_channels: D.
        skip: True is the paper's FSM. False drops the skip connection, c + u c -> u c: squeeze-and-excitation with a
            single layer, the reading of Table 1's "SE" row that reproduces its parameter count.

    Shapes: (N,C,H,W) -> (N,D,H,W).
    """

    def __init__(self, in_channels: int, out_channels: int, *, skip: bool = True):
        super().__init__()
        self.skip = skip
        self.importance = Conv2d(in_channels, in_channels, kernel_size=1, bias=False)
        self.selection = Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
        weight_init.c2_xavier_fill(self.importance)
        weight_init.c2_xavier_fill(self.selection)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = torch.sigmoid(self.importance(x.mean(dim=(2, 3), keepdim=True)))
        if self.skip:
            gate = 1 + gate
        # W (g x) = (W g) x: scaling D x C weights an image instead of C x H x W values saves a pass over the map.
        weight = self.selection.weight.flatten(1) * gate.flatten(1).unsqueeze(1)
        pixels = x.flatten(2)
        if layout_of(x) == torch.channels_last:
            selected = torch.matmul(pixels.mT, weight.mT).mT  # written in the layout that x has
        else:
            selected = torch.matmul(weight, pixels)
        return selected.unflatten(2, x.shape[-2:])
