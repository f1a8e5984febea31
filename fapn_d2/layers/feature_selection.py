"""Feature selection module (FSM) of FaPN: Huang et al., ICCV 2021, Section 3.2, Equations 4 and 5.

Legend: N images, C channels in, D channels out, H x W size of the map.
"""

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.layers import Conv2d
from torch import nn

from .memory_layout import layout_of


class FeatureSelection(nn.Module):
    """Weigh the channels of a bottom-up map by their importance, then reduce them to D channels.

    u = sigmoid(W_m GAP(c)) in (0, 1), one value per channel and image (Equation 4, f_m; GAP is Equation 5);
    output = W_s (c + u c) (Equation 4, f_s). W_m and W_s are 1x1 convolutions without bias, norm or activation, as in
    the official code.

    Args:
        in_channels, out_channels: C and D.
        skip: True: the paper's FSM. False: without the skip connection, u c in place of c + u c. This is
            squeeze-and-excitation with a single layer; it has the parameter count of the "SE" row in Table 1.

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
        # W (g x) = (W g) x: scaling D x C weights per image, and not C x H x W values, saves a pass over the map.
        weight = self.selection.weight.flatten(1) * gate.flatten(1).unsqueeze(1)
        pixels = x.flatten(2)
        if layout_of(x) == torch.channels_last:
            selected = torch.matmul(pixels.mT, weight.mT).mT  # written in the layout that x has
        else:
            selected = torch.matmul(weight, pixels)
        return selected.unflatten(2, x.shape[-2:])
