"""Modulated deformable convolution (Zhu et al., "Deformable ConvNets v2", 2019), the alignment of FaPN's Section 3.1.

Letters: N images, C input and O output channels, H x W input and h x w output size, K = kh*kw taps, G offset groups.

The operator ``fapn_d2::modulated_deform_conv2d`` has its own kernels for the CPU (cpu.py) and CUDA (cuda.py).
torchvision's operator computes the same where these kernels cannot run, and where the argument ``backend``,
``set_backend`` (backend.py) or the environment variable FAPN_DEFORM_CONV chooses it.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from . import torchvision_op
from .backend import check_backend, check_triton, get_backend
from .operator import operator, output_size


def modulated_deform_conv2d(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 1,
    dilation: int | tuple[int, int] = 1,
    backend: str | None = None,
) -> Tensor:
    """Convolution whose taps are moved by ``offset`` (pixels of x, bilinear, zero outside) and scaled by ``mask``.

    Args:
        x: the input (N, C, H, W).
        offset: (N, 2*G*K, h, w), group-major, then taps in row-major order, then (dy, dx). Group g moves the taps for
            input channels g*C/G to (g+1)*C/G. G is inferred.
        mask: (N, G*K, h, w), used as it is (no sigmoid), or None for ones.
        weight: the weights (O, C, kh, kw).
        bias: (O,) or None.
        stride, padding, dilation: an int or a (vertical, horizontal) pair.
        backend: "auto", "torchvision" or "triton" (see backend.py); None: the choice of the process, ``set_backend``.

    Returns:
        (N, O, h, w). Under autocast the output has autocast's dtype, to which ``x`` and ``weight`` are rounded;
        ``offset`` and ``mask`` keep their precision.

    Raises:
        ValueError: shapes do not fit (the message names the argument, its shape and the shape it needs), the backend is
            unknown, or it is "triton" and its kernels cannot run.

    The result equals that of `torchvision.ops.deform_conv2d`, with the same one-sided derivatives at whole pixels.
    """
    stride, padding, dilation = _pair(stride), _pair(padding), _pair(dilation)
    _check_shapes(x, offset, mask, weight, bias, stride, padding, dilation)
    backend = get_backend() if backend is None else check_backend(backend, "backend")
    if backend == "triton":
        check_triton(x, weight)
    # ONNX knows torchvision's operator, not ours.
    if backend == "torchvision" or torch.onnx.is_in_onnx_export():
        return _torchvision(x, offset, mask, weight, bias, stride, padding, dilation)
    return operator(x, offset, mask, weight, bias, stride, padding, dilation)


class ModulatedDeformConv2d(nn.Module):
    """`modulated_deform_conv2d` with parameters ``weight`` and ``bias``; offsets and mask are arguments of ``forward``.

    Initialised like the layer in FaPN: weights uniform within 1/sqrt(fan-in) of zero, bias zero.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 1,
        dilation: int | tuple[int, int] = 1,
        offset_groups: int = 1,
        bias: bool = True,
        backend: str | None = None,
    ):
        """Raises ValueError where ``in_channels`` is not a multiple of ``offset_groups``, or ``backend`` unknown."""
        super().__init__()
        if offset_groups < 1 or in_channels % offset_groups:
            raise ValueError(f"offset_groups {offset_groups} must divide the {in_channels} input channels")
        self.kernel_size = _pair(kernel_size)
        self.stride, self.padding, self.dilation = _pair(stride), _pair(padding), _pair(dilation)
        self.offset_groups = offset_groups
        self.backend = None if backend is None else check_backend(backend, "backend")
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *self.kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    @property
    def offset_channels(self) -> int:
        """Channels that ``offset`` must have; ``mask`` has half as many."""
        return 2 * self.offset_groups * math.prod(self.kernel_size)

    def reset_parameters(self) -> None:
        bound = 1 / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor | None) -> Tensor:
        """x (N, C, H, W), offset (N, `offset_channels`, h, w), mask (half its channels) -> (N, O, h, w)."""
        if offset.shape[1] != self.offset_channels:
            raise ValueError(
                f"offset has shape {tuple(offset.shape)}, but {self.offset_groups} offset groups and kernel "
                f"{self.kernel_size} need {self.offset_channels} channels"
            )
        geometry = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        return modulated_deform_conv2d(x, offset, mask, self.weight, self.bias, **geometry, backend=self.backend)

    def extra_repr(self) -> str:
        out_channels, in_channels = self.weight.shape[:2]
        return (
            f"{in_channels}, {out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, offset_groups={self.offset_groups}, "
            f"bias={self.bias is not None}"
        )


def _check_shapes(x, offset, mask, weight, bias, stride, padding, dilation) -> None:
    for name, tensor in (("x", x), ("offset", offset), ("weight", weight)):
        if tensor.dim() != 4:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected four dimensions")
    n, channels = x.shape[:2]
    taps = weight.shape[2] * weight.shape[3]
    size = output_size(x, weight, stride, padding, dilation)
    groups = max(1, offset.shape[1] // (2 * taps))
    expected = {
        "weight": (weight, (weight.shape[0], channels, *weight.shape[2:])),
        "offset": (offset, (n, 2 * groups * taps, *size)),
        "mask": (mask, (n, groups * taps, *size)),
        "bias": (bias, (weight.shape[0],)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tensor.shape != shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, expected {tuple(shape)} for x {tuple(x.shape)}, "
                f"weight {tuple(weight.shape)}, stride {stride}, padding {padding} and dilation {dilation}"
                + (f" (offset channels are 2 x {taps} taps x groups)" if name in ("offset", "mask") else "")
            )
    if channels % groups:
        raise ValueError(
            f"the {groups} groups of offset {tuple(offset.shape)} must divide the {channels} channels of x"
        )


def _torchvision(x, offset, mask, weight, bias, stride, padding, dilation) -> Tensor:
    """torchvision's operator in the graph, in place of ours, with our rules for autocast."""
    device_type = x.device.type
    autocast = torch.is_autocast_enabled(device_type) and x.dtype != torch.float64
    dtype = torch.get_autocast_dtype(device_type) if autocast else x.dtype
    with torch.autocast(device_type, enabled=False):
        return torchvision_op.forward(x, offset, mask, weight, bias, stride, padding, dilation).to(dtype)
