"""Convolutions with norm and activation, and initialisations that several layers share."""

from detectron2.layers import Conv2d, get_norm
from torch import nn
from torch.nn import functional as F


def conv_norm_relu(
    in_channels: int, out_channels: int, *, norm: str, kernel_size: int = 1, dilation: int = 1, bias: bool | None = None
) -> Conv2d:
    """Convolution that keeps the size, norm, ReLU; a bias where there is no norm, unless ``bias`` says. PyTorch's own
    initialisation, as in SFNet's official code."""
    return Conv2d(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        padding=dilation * (kernel_size // 2),
        dilation=dilation,
        bias=norm == "" if bias is None else bias,
        norm=get_norm(norm, out_channels),
        activation=F.relu,
    )


def xavier_uniform(conv: nn.Module) -> None:
    """mmdetection's: weights uniform in +-sqrt(6 / (fan_in + fan_out)), biases 0.

    Detectron2's ``c2_xavier_fill`` is uniform in +-sqrt(3 / fan_in): the same where a convolution keeps its channels.
    """
    nn.init.xavier_uniform_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
