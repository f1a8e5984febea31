"""Inputs, reference and gradients for the tests of the deformable convolution."""

import math

import torch
from torch.nn.modules.utils import _pair
from torchvision.ops import deform_conv2d

from fapn_d2.layers.deform_conv import cpu as deform_conv_cpu
from fapn_d2.layers.deform_conv.operator import output_size


def make_inputs(
    n=2, c=8, o=6, size=(9, 11), groups=4, kernel=3, mask=True, dtype=torch.float64, spread=3.0, **geometry
):
    """x, offset, mask, weight, bias; a third of the offsets is whole numbers, some point far outside."""
    kh, kw = _pair(kernel)
    x, weight = torch.randn(n, c, *size, dtype=dtype), torch.randn(o, c, kh, kw, dtype=dtype)
    geometry = [_pair(geometry.get(k, 1)) for k in ("stride", "padding", "dilation")]
    shape = output_size(x, weight, *geometry)
    offset = torch.randn(n, 2 * groups * kh * kw, *shape, dtype=dtype) * spread
    offset[:, ::3] = offset[:, ::3].round()
    offset[:, :, 0] = 0  # every border position lies exactly one pixel outside: one-sided derivatives
    offset[:, 1::5, -1] *= 100
    modulation = torch.rand(n, groups * kh * kw, *shape, dtype=dtype) if mask else None
    return x, offset, modulation, weight, torch.randn(o, dtype=dtype)


def reference(x, offset, mask, weight, bias, **geometry):
    return deform_conv2d(x, offset, weight, bias, mask=mask, **{"padding": 1, **geometry})


def with_gradients(function, inputs, grad=None):
    """Output and the gradients of all inputs that are there."""
    leaves = [t if t is None else t.detach().clone().requires_grad_() for t in inputs]
    out = function(*leaves)
    grad = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape) if grad is None else grad
    return [out.detach(), *torch.autograd.grad(out, [t for t in leaves if t is not None], grad)]


def never_small(monkeypatch):
    """Small maps must not be handed to torchvision where they are compared with it."""
    monkeypatch.setattr(deform_conv_cpu, "SMALL_FORWARD", -math.inf)
    monkeypatch.setattr(deform_conv_cpu, "SMALL_BACKWARD", -math.inf)
