"""The operator ``fapn_d2::modulated_deform_conv2d`` as PyTorch sees it: kernels, shapes, autograd, autocast.

Being an operator, it is one node for ``torch.compile`` and ``torch.export`` and runs on the meta device.
Letters and arguments as in module.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..memory_layout import laid_out_like, layout_of
from ..operator_support import empty_gradients, needed_gradients, one_per_input
from .backend import implementation

NAME = "fapn_d2::modulated_deform_conv2d"


def output_size(x: Tensor, weight: Tensor, stride, padding, dilation) -> tuple[int, int]:
    """(h, w) of the convolution's output, as for `torch.nn.Conv2d`."""
    return tuple(
        (x.shape[i + 2] + 2 * padding[i] - dilation[i] * (weight.shape[i + 2] - 1) - 1) // stride[i] + 1 for i in (0, 1)
    )


@torch.library.custom_op(NAME, mutates_args=())
def operator(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """`modulated_deform_conv2d` without its checks. The output is laid out like ``x`` (contiguous or channels-last)."""
    kernels = implementation(x, offset, weight, backward=False)
    return laid_out_like(kernels.forward(x, offset, mask, weight, bias, stride, padding, dilation), x)


@operator.register_fake
def _(x, offset, mask, weight, bias, stride, padding, dilation):
    shape = (x.shape[0], weight.shape[0], *output_size(x, weight, stride, padding, dilation))
    return x.new_empty(shape).contiguous(memory_format=layout_of(x))


@torch.library.custom_op(NAME + "_backward", mutates_args=())
def operator_backward(
    grad: Tensor,
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    needs: Sequence[bool],
) -> list[Tensor]:
    """The gradients of those of (x, offset, mask, weight) whose entry in ``needs`` is true, laid out like it."""
    kernels = implementation(x, offset, weight, backward=True)
    grads = kernels.backward(grad, x, offset, mask, weight, stride, padding, dilation, needs)
    return needed_gradients(grads, (x, offset, mask, weight), needs)


@operator_backward.register_fake
def _(grad, x, offset, mask, weight, stride, padding, dilation, needs):
    return empty_gradients((x, offset, mask, weight), needs)


def _save_for_backward(ctx, inputs, output) -> None:
    x, offset, mask, weight, _, ctx.stride, ctx.padding, ctx.dilation = inputs
    ctx.save_for_backward(x, offset, mask, weight)


def _backward(ctx, grad):
    needs = list(ctx.needs_input_grad[:4])
    x, offset, mask, weight = ctx.saved_tensors
    grads = [None] * 4
    if any(needs):
        found = operator_backward(grad, x, offset, mask, weight, ctx.stride, ctx.padding, ctx.dilation, needs)
        grads = one_per_input(found, needs)
    grad_bias = grad.sum((0, 2, 3)) if ctx.needs_input_grad[4] else None
    return *grads, grad_bias, None, None, None


operator.register_autograd(_backward, setup_context=_save_for_backward)


def _autocast_rule(device_type: str):
    """As for a convolution, x, weight and bias are rounded to autocast's dtype. Offset and mask are not: with the 8
    bits of bfloat16, an offset of several pixels would be exact to an eighth of a pixel at best."""

    def run(x, offset, mask, weight, bias, *geometry):
        dtype = torch.get_autocast_dtype(device_type)
        with torch.autocast(device_type, enabled=False):
            x, weight, bias = (t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in (x, weight, bias))
            return operator(x, offset, mask, weight, bias, *geometry)

    return run


for _device, _key in (("cpu", "AutocastCPU"), ("cuda", "AutocastCUDA")):
    torch.library.impl(NAME, _key, _autocast_rule(_device))
