"""torchvision's deformable convolution behind the same two functions as this project's kernels.

It has float32 and float64 everywhere (and float16 on some devices only): half precisions are computed in float32.
"""

import torch
from torch import Tensor
from torchvision.ops import deform_conv2d

from ..operator_support import at_least_float32


def forward(x, offset, mask, weight, bias, stride, padding, dilation) -> Tensor:
    """Output (N, O, h, w) in the dtype of ``x``; arguments as in `modulated_deform_conv2d`, stride etc. as pairs."""
    dtype = x.dtype
    x, offset, mask, weight, bias = at_least_float32(dtype, x, offset, mask, weight, bias)
    return deform_conv2d(x, offset, weight, bias, tuple(stride), tuple(padding), tuple(dilation), mask).to(dtype)


def backward(
    grad, x, offset, mask, weight, stride, padding, dilation, needs: tuple[bool, bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x, offset, mask and weight, given that of the output (N,O,h,w); None where ``needs`` is false."""
    like = (x, offset, mask, weight)
    grad, x, offset, mask, weight = at_least_float32(x.dtype, grad, x, offset, mask, weight)
    no_mask, no_bias = x.new_zeros(len(x), 1), x.new_zeros(len(weight))
    groups = offset.shape[1] // (2 * weight.shape[2] * weight.shape[3])
    # This is the operator that torchvision's autograd calls; autograd does not record inside our operator.
    grad_x, grad_weight, grad_offset, grad_mask, _ = torch.ops.torchvision._deform_conv2d_backward(
        grad.contiguous(), x, weight, offset, no_mask if mask is None else mask, no_bias,
        *stride, *padding, *dilation, 1, groups, mask is not None,
    )  # fmt: skip
    grads = (grad_x, grad_offset, grad_mask, grad_weight)
    return tuple(g.to(t.dtype) if need else None for g, t, need in zip(grads, like, needs))
