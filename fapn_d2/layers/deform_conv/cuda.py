"""The modulated deformable convolution on CUDA: how the kernels of cuda_kernels.py are launched.

Products are summed in float32. Float32 inputs are multiplied in full precision unless torch's setting for matrix
products (``torch.backends.cuda.matmul.fp32_precision``, or the older ``allow_tf32``) allows TF32.
"""

import math
from functools import cache

import torch
from torch import Tensor

from .. import triton_support
from ..triton_support import alert_not_deterministic, dense, on_device_of, strides
from .cuda_launch import Launch, Work, forward_launch, position_launch, weight_launch

CHANNEL_MULTIPLE = 16


def unsupported(x: Tensor, weight: Tensor) -> str:
    """Why the kernels cannot run on these tensors; empty if they can."""
    reason = triton_support.unsupported(x)
    if reason:
        return reason
    if x.shape[1] % CHANNEL_MULTIPLE or weight.shape[0] % CHANNEL_MULTIPLE:
        return (
            f"the kernels need channels that are multiples of {CHANNEL_MULTIPLE}, not {x.shape[1]} in and "
            f"{weight.shape[0]} out"
        )
    return ""


def work(x: Tensor, offset: Tensor, weight: Tensor) -> Work:
    """The numbers by which the shape of the kernels' programs is chosen."""
    return _Problem(x, offset, None, weight, (1, 1), (0, 0), (1, 1)).work


def forward(
    x, offset, mask, weight, bias, stride, padding, dilation, *, launch: Launch | None = None, precision: str = ""
) -> Tensor:
    """Output (N, O, h, w) in the dtype of ``x``, channels-last; arguments as in `modulated_deform_conv2d`.

    ``launch`` and ``precision`` (of float32 products: "ieee", "tf32", "tf32x3") replace what is chosen otherwise.
    """
    from .cuda_kernels import forward_kernel

    problem = _Problem(x, offset, mask, weight, stride, padding, dilation, precision)
    out = x.new_empty(problem.n, problem.out_h, problem.out_w, problem.outputs)
    if out.numel():
        launch = launch or forward_launch(problem.work)
        bias_or_any = problem.matrix if bias is None else bias
        with problem.device:
            forward_kernel[problem.tiles(launch), math.ceil(problem.outputs / launch.outputs)](
                problem.x, problem.offset, problem.mask, problem.matrix, bias_or_any, out,
                **problem.sizes, **problem.constants, **launch.blocks, HAS_BIAS=bias is not None,
            )  # fmt: skip
    return out.permute(0, 3, 1, 2)


def backward(
    grad,
    x,
    offset,
    mask,
    weight,
    stride,
    padding,
    dilation,
    needs: tuple[bool, bool, bool, bool],
    *,
    launch: Launch | None = None,
    precision: str = "",
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x, offset, mask and weight, given that of the output (N,O,h,w); None where ``needs`` is false.

    ``launch`` (of the kernel for what is asked) and ``precision`` as in `forward`.

    Raises:
        RuntimeError: the gradient of x is needed under ``torch.use_deterministic_algorithms(True)``. It is summed by
            atomic additions, whose order varies. With ``warn_only`` this is a warning.
    """
    needs_x, needs_offset, needs_mask, needs_weight = needs
    if needs_x:
        alert_not_deterministic("fapn_d2::modulated_deform_conv2d")
    problem = _Problem(x, offset, mask, weight, stride, padding, dilation, precision)
    grad = grad.to(x.dtype).permute(0, 2, 3, 1).contiguous()
    grad_x = grad_offset = grad_mask = grad_weight = None
    if needs_x or needs_offset or needs_mask:
        grad_x, grad_offset, grad_mask = _position_gradients(problem, grad, needs[:3], launch)
    if needs_weight:
        grad_weight = _weight_gradient(problem, grad, weight, launch)
    return grad_x, grad_offset, grad_mask, grad_weight


def _position_gradients(problem: "_Problem", grad: Tensor, needs: tuple[bool, bool, bool], launch: Launch | None):
    from .cuda_kernels import position_kernel

    needs_x, needs_offset, needs_mask = needs
    grad_x = torch.zeros_like(problem.x, dtype=torch.float32) if needs_x else None
    grad_offset = torch.empty_like(problem.offset) if needs_offset else None
    grad_mask = torch.empty_like(problem.mask) if needs_mask else None
    if grad.numel():
        launch = launch or position_launch(problem.work)
        with problem.device:
            position_kernel[(problem.tiles(launch),)](
                grad, problem.x, problem.offset, problem.mask, problem.matrix,
                grad_x if needs_x else grad,  # a placeholder: the kernel does not write it
                grad_offset if needs_offset else grad,
                grad_mask if needs_mask else grad,
                **problem.sizes, **problem.constants, **launch.blocks,
                NEEDS_X=needs_x, NEEDS_OFFSET=needs_offset, NEEDS_MASK=needs_mask,
            )  # fmt: skip
    return grad_x.to(problem.x.dtype).permute(0, 3, 1, 2) if needs_x else None, grad_offset, grad_mask


def _weight_gradient(problem: "_Problem", grad: Tensor, weight: Tensor, launch: Launch | None) -> Tensor:
    from .cuda_kernels import weight_kernel

    if not grad.numel():
        return torch.zeros_like(weight)
    launch = launch or weight_launch(problem.work)
    rows = math.ceil(problem.constants["ALL_SLOTS"] / launch.slots) * math.ceil(problem.group_c / launch.channels)
    columns = math.ceil(problem.outputs / launch.outputs)
    # With few rows and columns, several programs share the pixels. Each has its own sums, which are added in a fixed
    # order.
    tiles = problem.tiles(launch)
    parts = min(tiles, math.ceil(2 * problem.multiprocessors / (rows * columns)))
    partial = grad.new_empty(parts, *problem.matrix.shape, dtype=torch.float32)
    with problem.device:
        weight_kernel[rows, columns, parts](
            grad, problem.x, problem.offset, problem.mask, partial,
            N=problem.n, **problem.sizes, **problem.constants, **launch.blocks,
        )  # fmt: skip
    return partial.sum(0).permute(3, 0, 2, 1).reshape(weight.shape).to(weight.dtype)  # from (G, K, c, O)


class _Problem:
    """Tensors as the kernels read them, and the arguments that all kernels share."""

    def __init__(self, x, offset, mask, weight, stride, padding, dilation, precision=""):
        self.n, channels, height, width = x.shape
        self.outputs, _, taps_h, taps_w = weight.shape
        self.out_h, self.out_w = offset.shape[2:]
        taps = taps_h * taps_w
        groups = offset.shape[1] // (2 * taps)
        self.group_c = channels // groups
        self.x = x.permute(0, 2, 3, 1).contiguous()
        self.matrix = (
            weight.to(x.dtype).reshape(self.outputs, groups, self.group_c, taps).permute(1, 3, 2, 0).contiguous()
        )
        self.offset = dense(offset)
        self.mask = self.offset if mask is None else dense(mask)
        self.device = on_device_of(x)
        # Off CUDA the kernels run in Triton's interpreter, on a processor of any size.
        self.multiprocessors, self.shared_memory = _limits(x.device) if x.is_cuda else (4, 0)
        names = ("n", "c", "p")
        self.sizes = {
            "H": height, "W": width, "OUT_H": self.out_h, "OUT_W": self.out_w, "C": channels, "O": self.outputs,
            **{f"offset_{name}": stride for name, stride in zip(names, strides(self.offset))},
            **{f"mask_{name}": stride for name, stride in zip(names, strides(self.mask))},
        }  # fmt: skip
        self.constants = {
            "STRIDE_H": stride[0], "STRIDE_W": stride[1], "PAD_H": padding[0], "PAD_W": padding[1],
            "DILATION_H": dilation[0], "DILATION_W": dilation[1],
            "ALL_SLOTS": groups * taps, "TAPS": taps, "TAPS_W": taps_w, "GROUP_C": self.group_c,
            "HAS_MASK": mask is not None,
            "WIDE": height * width * channels >= 2**31,
            "PRECISION": precision or ("tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"),
        }  # fmt: skip

    @property
    def work(self) -> Work:
        """The numbers by which the shape of the programs is chosen."""
        return Work(
            half=self.x.element_size() == 2,
            pixels=self.n * self.out_h * self.out_w,
            group_c=self.group_c,
            outputs=self.outputs,
            multiprocessors=self.multiprocessors,
            shared_memory=self.shared_memory,
        )

    def tiles(self, launch: Launch) -> int:
        return self.n * math.ceil(self.out_h / launch.tile_h) * math.ceil(self.out_w / launch.tile_w)


@cache
def _limits(device: torch.device) -> tuple[int, int]:
    """Multiprocessors, and bytes of shared memory that a block may use."""
    properties = torch.cuda.get_device_properties(device)
    return properties.multi_processor_count, properties.shared_memory_per_block_optin
