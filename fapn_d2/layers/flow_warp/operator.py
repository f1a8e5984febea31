"""The operator ``fapn_d2::flow_warp`` as PyTorch sees it, for CUDA: kernels, shapes, autograd.

It is one node for ``torch.compile`` and ``torch.export``. Like ``F.grid_sample`` under autocast, it computes in
float32. The result has the type of ``x``. Letters and arguments as in warp.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..memory_layout import laid_out_like, layout_of
from ..operator_support import empty_gradients, needed_gradients, one_per_input
from . import cuda

NAME = "fapn_d2::flow_warp"


def grid(x: Tensor, flow: Tensor, unit: float) -> Tensor:
    """(N,H,W,2): the positions at which ``F.grid_sample`` samples ``x``.

    They are float32 at least, because half precision cannot tell neighbouring pixels of a large map apart.
    """
    dtype = torch.promote_types(torch.promote_types(x.dtype, flow.dtype), torch.float32)
    size = flow.shape[-2:]
    gy, gx = (_coordinates(s, dtype, x.device) for s in size)
    flow = flow.to(dtype)
    sample_x = gx + flow[:, 0] * (2 * unit / size[1])
    sample_y = gy[:, None] + flow[:, 1] * (2 * unit / size[0])
    return torch.stack([sample_x, sample_y], dim=-1)


def by_grid_sample(x: Tensor, flow: Tensor, added: Tensor | None, unit: float, align_corners: bool) -> Tensor:
    """warp(x, flow) + added by PyTorch's own operators, on any device."""
    where = grid(x, flow, unit)
    warped = F.grid_sample(
        x.to(where.dtype), where, mode="bilinear", padding_mode="zeros", align_corners=align_corners
    ).to(x.dtype)
    return warped if added is None else added + warped


def _coordinates(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``size`` numbers from -1 to 1; -1 if ``size`` is 1. Unlike ``linspace`` it can be exported with a free size."""
    return torch.arange(size, dtype=dtype, device=device) * (2 / torch.sym_max(size - 1, 1)) - 1


@torch.library.custom_op(NAME, mutates_args=())
def operator(x: Tensor, flow: Tensor, added: Tensor | None, unit: float, align_corners: bool) -> Tensor:
    """``flow_warp`` without its checks; ``added`` has the type of ``x``. The output is laid out like ``x``."""
    compute = cuda.forward if cuda.supported(x, flow) else by_grid_sample
    return laid_out_like(compute(x, flow, added, unit, align_corners), x)


@operator.register_fake
def _(x, flow, added, unit, align_corners):
    return x.new_empty(*x.shape[:2], *flow.shape[2:]).contiguous(memory_format=layout_of(x))


@torch.library.custom_op(NAME + "_backward", mutates_args=())
def operator_backward(
    grad: Tensor, x: Tensor, flow: Tensor, unit: float, align_corners: bool, needs: Sequence[bool]
) -> list[Tensor]:
    """The gradients of those of (x, flow) whose entry in ``needs`` is true, each laid out like its tensor."""
    compute = cuda.backward if cuda.supported(x, flow) else _grid_sample_backward
    grads = compute(grad, x, flow, unit, align_corners, needs)
    return needed_gradients(grads, (x, flow), needs)


@operator_backward.register_fake
def _(grad, x, flow, unit, align_corners, needs):
    return empty_gradients((x, flow), needs)


def _grid_sample_backward(grad, x, flow, unit, align_corners, needs) -> tuple[Tensor | None, Tensor | None]:
    where = grid(x, flow, unit)
    # This is the operator that autograd itself calls; autograd does not record inside our operator. 0, 0: bilinear,
    # zeros.
    grad_x, grad_where = torch.ops.aten.grid_sampler_2d_backward(
        grad.to(where.dtype), x.to(where.dtype), where, 0, 0, align_corners, list(needs)
    )
    grad_flow = None
    if needs[1]:
        per_unit = [2 * unit / size for size in (flow.shape[3], flow.shape[2])]
        grad_flow = (grad_where * grad_where.new_tensor(per_unit)).movedim(-1, 1).to(flow.dtype)
    return grad_x.to(x.dtype) if needs[0] else None, grad_flow


def _save_for_backward(ctx, inputs, output) -> None:
    x, flow, _, ctx.unit, ctx.align_corners = inputs
    ctx.save_for_backward(x, flow)


def _backward(ctx, grad):
    needs = list(ctx.needs_input_grad[:2])
    grads = [None, None]
    if any(needs):
        found = operator_backward(grad, *ctx.saved_tensors, ctx.unit, ctx.align_corners, needs)
        grads = one_per_input(found, needs)
    return *grads, grad if ctx.needs_input_grad[2] else None, None, None


operator.register_autograd(_backward, setup_context=_save_for_backward)
