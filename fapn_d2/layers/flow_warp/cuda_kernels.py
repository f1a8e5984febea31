"""Triton kernels of the flow warp: they compute the warped map, or its sum with another map, in one pass.

Letters as in warp.py. A program owns BLOCK_P neighbouring pixels of the fine map of one image and processes BLOCK_C
channels at a time. All maps of a call are dense and have the same layout. The dimension that is contiguous in memory is
the last one of a block: blocks are (P, B) for channels-last maps, else (B, P).
"""

import triton
import triton.language as tl

from ..triton_sampling import _split

# Triton compiles a kernel again for each combination of arguments that are a multiple of 16 or not. Sizes vary from
# image to image, so they are exempt. Only for C the alignment matters.
SIZES = ["H", "W", "coarse_h", "coarse_w", "flow_n", "flow_c", "flow_p"]


@triton.jit
def _over_channels(per_pixel, CHANNELS_LAST: tl.constexpr):
    """A value per pixel (P,) -> (P, 1) or (1, P), to be combined with a value per channel."""
    if CHANNELS_LAST:
        return per_pixel[:, None]
    else:
        return per_pixel[None, :]


@triton.jit
def _channels(start, BLOCK_C: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Numbers of the channels from ``start`` on: (1, B) or (B, 1)."""
    c = start + tl.arange(0, BLOCK_C)
    if CHANNELS_LAST:
        return c[None, :]
    else:
        return c[:, None]


@triton.jit
def _element(pixel, c, PIXELS, C: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Index of a channel of a pixel within an image."""
    if CHANNELS_LAST:
        return pixel * C + c
    else:
        return c * PIXELS + pixel


@triton.jit
def _positions(
    flow, image, pixel, inside, W, coarse_h, coarse_w, flow_n, flow_c, flow_p,
    x_step, x_unit, x_start, y_step, y_unit, y_start, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """Where each pixel samples the coarse map: row of the top neighbour, column of the left one, fractional parts."""
    at = flow + image * flow_n + pixel * flow_p
    u = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    v = tl.load(at + flow_c, mask=inside, other=0.0).to(tl.float32)
    top, fy = _split((pixel // W).to(tl.float32) * y_step + v * y_unit + y_start, coarse_h)
    left, fx = _split((pixel % W).to(tl.float32) * x_step + u * x_unit + x_start, coarse_w)
    return (
        _over_channels(top, CHANNELS_LAST),
        _over_channels(left, CHANNELS_LAST),
        _over_channels(fy, CHANNELS_LAST),
        _over_channels(fx, CHANNELS_LAST),
    )


@triton.jit
def _neighbour(y, x, c, live, coarse_h, coarse_w, C: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Index of a pixel of the coarse map, and whether it lies within the map."""
    ok = live & (y >= 0) & (y < coarse_h) & (x >= 0) & (x < coarse_w)
    return _element(y * coarse_w + x, c, coarse_h * coarse_w, C, CHANNELS_LAST), ok


@triton.jit(do_not_specialize_on_alignment=SIZES)
def warp_kernel(
    x, flow, added, out,
    H, W, coarse_h, coarse_w, C: tl.constexpr, flow_n, flow_c, flow_p,
    x_step, x_unit, x_start, y_step, y_unit, y_start,
    HAS_ADDED: tl.constexpr, CHANNELS_LAST: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """out = warp(x, flow) + added. Grid: blocks of pixels, images."""
    image = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = pixel < H * W
    top, left, fy, fx = _positions(
        flow, image, pixel, inside, W, coarse_h, coarse_w, flow_n, flow_c, flow_p,
        x_step, x_unit, x_start, y_step, y_unit, y_start, CHANNELS_LAST,
    )  # fmt: skip
    source = x + image * coarse_h * coarse_w * C
    target = image * H * W * C
    pixel, inside = _over_channels(pixel, CHANNELS_LAST), _over_channels(inside, CHANNELS_LAST)
    for start in range(0, C, BLOCK_C):
        c = _channels(start, BLOCK_C, CHANNELS_LAST)
        live = inside & (c < C)
        at, ok = _neighbour(top, left, c, live, coarse_h, coarse_w, C, CHANNELS_LAST)
        value = (1 - fy) * (1 - fx) * tl.load(source + at, mask=ok, other=0.0).to(tl.float32)
        at, ok = _neighbour(top, left + 1, c, live, coarse_h, coarse_w, C, CHANNELS_LAST)
        value += (1 - fy) * fx * tl.load(source + at, mask=ok, other=0.0).to(tl.float32)
        at, ok = _neighbour(top + 1, left, c, live, coarse_h, coarse_w, C, CHANNELS_LAST)
        value += fy * (1 - fx) * tl.load(source + at, mask=ok, other=0.0).to(tl.float32)
        at, ok = _neighbour(top + 1, left + 1, c, live, coarse_h, coarse_w, C, CHANNELS_LAST)
        value += fy * fx * tl.load(source + at, mask=ok, other=0.0).to(tl.float32)
        at = target + _element(pixel, c, H * W, C, CHANNELS_LAST)
        if HAS_ADDED:
            value += tl.load(added + at, mask=live, other=0.0).to(tl.float32)
        tl.store(out + at, value.to(out.dtype.element_ty), mask=live)


@triton.jit(do_not_specialize_on_alignment=SIZES)
def warp_gradient_kernel(
    grad, x, flow, grad_x, grad_flow,
    H, W, coarse_h, coarse_w, C: tl.constexpr, flow_n, flow_c, flow_p,
    x_step, x_unit, x_start, y_step, y_unit, y_start,
    NEEDS_X: tl.constexpr, NEEDS_FLOW: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradients of x (float32, added atomically) and flow (laid out like it). Grid: blocks of pixels, images."""
    image = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = pixel < H * W
    top, left, fy, fx = _positions(
        flow, image, pixel, inside, W, coarse_h, coarse_w, flow_n, flow_c, flow_p,
        x_step, x_unit, x_start, y_step, y_unit, y_start, CHANNELS_LAST,
    )  # fmt: skip
    offset = image * coarse_h * coarse_w * C
    source, target = x + offset, grad_x + offset
    place = _over_channels(pixel, CHANNELS_LAST)
    AXIS: tl.constexpr = 1 if CHANNELS_LAST else 0
    by_y = tl.zeros((BLOCK_P,), tl.float32)
    by_x = by_y
    for start in range(0, C, BLOCK_C):
        c = _channels(start, BLOCK_C, CHANNELS_LAST)
        live = _over_channels(inside, CHANNELS_LAST) & (c < C)
        at = image * H * W * C + _element(place, c, H * W, C, CHANNELS_LAST)
        grad_out = tl.load(grad + at, mask=live, other=0.0).to(tl.float32)
        at0, ok0 = _neighbour(top, left, c, live, coarse_h, coarse_w, C, CHANNELS_LAST)
        at1, ok1 = _neighbour(top, left + 1, c, live, coarse_h, coarse_w, C, CHANNELS_LAST)
        at2, ok2 = _neighbour(top + 1, left, c, live, coarse_h, coarse_w, C, CHANNELS_LAST)
        at3, ok3 = _neighbour(top + 1, left + 1, c, live, coarse_h, coarse_w, C, CHANNELS_LAST)
        if NEEDS_FLOW:
            value0 = tl.load(source + at0, mask=ok0, other=0.0).to(tl.float32)
            value1 = tl.load(source + at1, mask=ok1, other=0.0).to(tl.float32)
            value2 = tl.load(source + at2, mask=ok2, other=0.0).to(tl.float32)
            value3 = tl.load(source + at3, mask=ok3, other=0.0).to(tl.float32)
            by_y += tl.sum(grad_out * ((value2 - value0) * (1 - fx) + (value3 - value1) * fx), AXIS)
            by_x += tl.sum(grad_out * ((value1 - value0) * (1 - fy) + (value3 - value2) * fy), AXIS)
        if NEEDS_X:
            tl.atomic_add(target + at0, grad_out * (1 - fy) * (1 - fx), mask=ok0, sem="relaxed")
            tl.atomic_add(target + at1, grad_out * (1 - fy) * fx, mask=ok1, sem="relaxed")
            tl.atomic_add(target + at2, grad_out * fy * (1 - fx), mask=ok2, sem="relaxed")
            tl.atomic_add(target + at3, grad_out * fy * fx, mask=ok3, sem="relaxed")
    if NEEDS_FLOW:
        at = grad_flow + image * flow_n + pixel * flow_p
        tl.store(at, (by_x * x_unit).to(grad_flow.dtype.element_ty), mask=inside)
        tl.store(at + flow_c, (by_y * y_unit).to(grad_flow.dtype.element_ty), mask=inside)
