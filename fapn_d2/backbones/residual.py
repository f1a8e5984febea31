"""Parts of residual networks that Detectron2 lacks: blocks with dilation, and a projection wherever the size changes.

Legend: N images, C channels in, D channels out, H x W size of the input, s stride.
"""

import fvcore.nn.weight_init as weight_init
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling.backbone.resnet import BasicBlock
from torch.nn import functional as F

from ..layers.conv import conv_norm


def conv3x3_norm_relu(in_channels: int, out_channels: int, *, stride: int = 1, norm: str = "BN") -> Conv2d:
    """3x3 convolution without bias, norm and ReLU, initialised for training from scratch."""
    conv = conv_norm(in_channels, out_channels, kernel_size=3, stride=stride, norm=norm, bias=False, activation=F.relu_)
    weight_init.c2_msra_fill(conv)
    return conv


class DilatedBasicBlock(BasicBlock):
    """ResNet-18's and ResNet-34's block: Detectron2's, with the same parameter names.

    Args:
        in_channels, out_channels: C and D.
        stride: stride s of the first 3x3 convolution. With s > 1 the shortcut is a projection, also where C equals D,
            as in DF1's second stage; Detectron2's block has none there.
        norm: name for Detectron2's ``get_norm``.
        first_dilation, dilation: dilations of the first and of the second 3x3 convolution.

    Shapes: (N,C,H,W) -> (N,D,ceil(H/s),ceil(W/s)).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        norm: str = "BN",
        first_dilation: int = 1,
        dilation: int = 1,
    ):
        super().__init__(in_channels, out_channels, stride=stride, norm=norm)
        if stride != 1 and self.shortcut is None:
            self.shortcut = Conv2d(
                in_channels, out_channels, kernel_size=1, stride=stride, bias=False, norm=get_norm(norm, out_channels)
            )
            weight_init.c2_msra_fill(self.shortcut)
        for conv, rate in ((self.conv1, first_dilation), (self.conv2, dilation)):
            conv.dilation = conv.padding = (rate, rate)
