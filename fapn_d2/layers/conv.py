"""Convolutions with norm and activation, and initialisations that several layers share."""

from collections.abc import Callable

from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn
from torch.nn import functional as F


def conv_norm(
    in_channels: int,
    out_channels: int,
    *,
    norm: str,
    kernel_size: int = 1,
    stride: int = 1,
    dilation: int = 1,
    bias: bool | None = None,
    activation: Callable[[Tensor], Tensor] | None = None,
) -> Conv2d:
    """Convolution, norm and activation, with PyTorch's own initialisation.

    Args:
        in_channels, out_channels: channels of the input and of the output.
        norm: name for Detectron2's ``get_norm``, "" for none.
        kernel_size: side of the kernel, odd.
        stride: the stride; with 1 the map keeps its size.
        dilation: distance of the kernel's taps, in pixels.
        bias: whether the convolution has a bias; None: only where there is no norm, as in Detectron2's FPN.
        activation: the function after the norm; None: no function.
    """
    return Conv2d(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        stride=stride,
        padding=dilation * (kernel_size // 2),
        dilation=dilation,
        bias=norm == "" if bias is None else bias,
        norm=get_norm(norm, out_channels),
        activation=activation,
    )


def conv_norm_relu(in_channels: int, out_channels: int, *, norm: str, **options) -> Conv2d:
    """`conv_norm` with ReLU, initialised as in SFNet's official code; ``options`` are those of `conv_norm`."""
    return conv_norm(in_channels, out_channels, norm=norm, activation=F.relu, **options)


def xavier_uniform(conv: nn.Module) -> None:
    """Initialise a convolution as mmdetection does: weights uniform in +-sqrt(6 / (fan_in + fan_out)), biases 0.

    Detectron2's ``c2_xavier_fill`` is uniform in +-sqrt(3 / fan_in), which is the same where a convolution has as many
    output channels as input channels.
    """
    nn.init.xavier_uniform_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
