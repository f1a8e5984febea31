"""Non-local block, one of the context modules in SFNet's Table 3: Wang et al., "Non-local Neural Networks", CVPR 2018.

Legend: N images, C channels in, D channels out, E channels of the block, h x w size of the map.
"""

import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn
from torch.nn import functional as F

from .conv import conv_norm_relu


class NonLocalBlock(nn.Module):
    """x + gamma * attention(x). Attention at a pixel is the mean of all pixels, weighted by softmax(q k / sqrt(d)).

    d is the number of key channels. ``gamma`` starts at 0, so the block is the identity at first.

    Shapes: (N,E,h,w) -> (N,E,h,w).
    """

    def __init__(self, channels: int, *, key_channels: int):
        super().__init__()
        self.query = Conv2d(channels, key_channels, kernel_size=1)
        self.key = Conv2d(channels, key_channels, kernel_size=1)
        self.value = Conv2d(channels, channels, kernel_size=1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (f(x).flatten(2).mT[:, None] for f in (self.query, self.key, self.value))
        attended = F.scaled_dot_product_attention(query, key, value)
        return x + self.gamma * attended[:, 0].mT.unflatten(2, x.shape[-2:])


class NonLocalContext(nn.Module):
    """3x3 convolution to E channels, non-local block, 3x3 convolution, then [x, .] -> 3x3 convolution -> 1x1 to D.

    This is the head of CCNet (Huang et al., ICCV 2019) with full attention. SFNet does not state the widths. They are
    chosen so that the GFLOPs with ResNet-18 come near SFNet's: 295.4 (the paper has 295.5). Other widths would fit as
    well.

    Args:
        in_channels, out_channels: C and D.
        channels: number of channels E of the block.
        key_channels: number of channels of query and key.
        hidden: number of output channels of the convolution on [x, .].
        norm: name for Detectron2's ``get_norm``. All convolutions outside the block have this norm, and ReLU.
        dropout: probability that a whole channel of the result is dropped in training.

    Shapes: (N,C,h,w) -> (N,D,h,w). Memory grows with (h w)^2 where PyTorch has no fused attention for the device.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        channels: int = 1024,
        key_channels: int = 128,
        hidden: int = 512,
        norm: str = "BN",
        dropout: float = 0.1,
    ):
        super().__init__()
        self.before = conv_norm_relu(in_channels, channels, kernel_size=3, norm=norm)
        self.block = NonLocalBlock(channels, key_channels=key_channels)
        self.after = conv_norm_relu(channels, channels, kernel_size=3, norm=norm)
        self.fuse = conv_norm_relu(in_channels + channels, hidden, kernel_size=3, norm=norm)
        self.bottleneck = conv_norm_relu(hidden, out_channels, norm=norm)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        y = self.after(self.block(self.before(x)))
        return self.dropout(self.bottleneck(self.fuse(torch.cat([x, y], dim=1))))
