"""The flow warp on CUDA: how the kernels of cuda_kernels.py are launched.

Under autocast, a warp by ``F.grid_sample`` reads and writes the map several times, partly in float32: the map is
converted to float32, sampled, rounded, and added to the fine map. The kernel here writes the result once.
"""

import math

import torch
from torch import Tensor

from ..memory_layout import laid_out_like, layout_of
from ..triton_support import alert_not_deterministic, dense, on_device_of, power_of_two, strides, unsupported

#: Number of (pixels, channels) that one program processes at a time, by layout. Maps with fewer channels take fewer.
BLOCKS = {torch.channels_last: (32, 64), torch.contiguous_format: (128, 16)}


def supported(x: Tensor, flow: Tensor) -> bool:
    """Whether the kernels can run on these tensors."""
    largest = x.shape[1] * max(x.shape[2] * x.shape[3], flow.shape[2] * flow.shape[3])
    return largest < 2**31 and not unsupported(x)  # indices within an image have 32 bits


def forward(x: Tensor, flow: Tensor, added: Tensor | None, unit: float, align_corners: bool) -> Tensor:
    """warp(x, flow) + added, (N,C,H,W) in the type and layout of ``x``; arguments as in ``flow_warp``."""
    from .cuda_kernels import warp_kernel

    problem = _Problem(x, flow, unit, align_corners)
    size = (*x.shape[:2], *flow.shape[2:])
    out = x.new_empty(size).contiguous(memory_format=layout_of(problem.x))
    if out.numel():
        with problem.device:
            warp_kernel[problem.grid](
                problem.x, problem.flow, out if added is None else laid_out_like(added, out), out,
                **problem.arguments, HAS_ADDED=added is not None, num_warps=4,
            )  # fmt: skip
    return out


def backward(
    grad: Tensor, x: Tensor, flow: Tensor, unit: float, align_corners: bool, needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of x and flow, given the gradient of the output; None where ``needs`` is false.

    Raises:
        RuntimeError: the gradient of x is needed under ``torch.use_deterministic_algorithms(True)``. It is summed by
            atomic additions, whose order varies. With ``warn_only`` this is a warning.
    """
    from .cuda_kernels import warp_gradient_kernel

    needs_x, needs_flow = needs
    if needs_x:
        alert_not_deterministic("fapn_d2::flow_warp")
    problem = _Problem(x, flow, unit, align_corners)
    # zeros_like and empty_like keep the layout of the map that the kernel reads
    grad_x = torch.zeros_like(problem.x, dtype=torch.float32) if needs_x else None
    grad_flow = torch.empty_like(problem.flow) if needs_flow else None
    if grad.numel() and any(needs):
        grad = laid_out_like(grad, problem.x)
        with problem.device:
            warp_gradient_kernel[problem.grid](
                grad, problem.x, problem.flow,
                grad_x if needs_x else grad,  # a placeholder: the kernel does not write it
                grad_flow if needs_flow else grad,
                **problem.arguments, NEEDS_X=needs_x, NEEDS_FLOW=needs_flow, num_warps=4,
            )  # fmt: skip
    return grad_x.to(x.dtype) if needs_x else None, grad_flow


class _Problem:
    """The tensors in the layouts that the kernels read, and the arguments that both kernels share."""

    def __init__(self, x: Tensor, flow: Tensor, unit: float, align_corners: bool):
        self.x, self.flow = laid_out_like(x, x), dense(flow)
        n, channels, coarse_h, coarse_w = x.shape
        height, width = flow.shape[2:]
        pixels, most = BLOCKS[layout_of(self.x)]
        self.grid = (math.ceil(height * width / pixels), n)
        self.device = on_device_of(x)
        self.arguments = {
            "H": height, "W": width, "coarse_h": coarse_h, "coarse_w": coarse_w, "C": channels,
            **dict(zip(("flow_n", "flow_c", "flow_p"), strides(self.flow))),
            **_line("x", width, coarse_w, unit, align_corners), **_line("y", height, coarse_h, unit, align_corners),
            "CHANNELS_LAST": layout_of(self.x) == torch.channels_last,
            "BLOCK_P": pixels, "BLOCK_C": min(most, power_of_two(channels)),
        }  # fmt: skip


def _line(axis: str, fine: int, coarse: int, unit: float, align_corners: bool) -> dict[str, float]:
    """The formula in ``flow_warp`` along one side: coarse position = step * pixel + unit * flow + start."""
    span, start = (coarse - 1, 0.0) if align_corners else (coarse, -0.5)
    return {f"{axis}_step": span / max(fine - 1, 1), f"{axis}_unit": unit * span / fine, f"{axis}_start": start}
