"""Triton kernels of the modulated deformable convolution: sample and multiply in one pass, no columns in memory.

Letters as in module.py; c = C/G channels of a group. A *slot* is one (group, tap) pair, numbered g*K + k as in the
offset channels; rows of the weight matrix are numbered slot*c + channel. A program owns a tile of BLOCK_M output pixels
(a rectangle, so that taps of neighbouring pixels meet in the cache) and goes through SLOTS slots at a time, in CHUNKS
pieces of BLOCK_C channels. x and gradients of outputs are channels-last: a sample is one contiguous row.

Shapes in comments: M pixels, S slots, B = BLOCK_C.
"""

import triton
import triton.language as tl

from ..triton_sampling import _split

# Triton compiles a kernel again for each combination of arguments that are a multiple of 16 or not. Sizes vary from
# image to image, so they are exempt. Only for the channels C and O the alignment matters.
SIZES = ["N", "H", "W", "OUT_H", "OUT_W", "offset_n", "offset_c", "offset_p", "mask_n", "mask_c", "mask_p"]


@triton.jit
def _pixels(tile, OUT_H, OUT_W, BLOCK_M: tl.constexpr, TILE_W: tl.constexpr):
    """Image, rows and columns (M,) of a tile, and which of its pixels exist."""
    tiles_w = tl.cdiv(OUT_W, TILE_W)
    tiles = tiles_w * tl.cdiv(OUT_H, BLOCK_M // TILE_W)
    place = tile % tiles
    m = tl.arange(0, BLOCK_M)
    row = place // tiles_w * (BLOCK_M // TILE_W) + m // TILE_W
    col = place % tiles_w * TILE_W + m % TILE_W
    return (tile // tiles).to(tl.int64), row, col, (row < OUT_H) & (col < OUT_W)


@triton.jit
def _positions(
    offset, mask, image, row, col, inside, slots,
    H, W, OUT_W, offset_n, offset_c, offset_p, mask_n, mask_c, mask_p,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    ALL_SLOTS: tl.constexpr, TAPS: tl.constexpr, TAPS_W: tl.constexpr, HAS_MASK: tl.constexpr,
):  # fmt: skip
    """Where each pixel samples for each slot: top and left neighbour, fractions, modulation, existence; all (M, S)."""
    live = inside[:, None] & (slots < ALL_SLOTS)[None, :]
    pixel = (row * OUT_W + col)[:, None]
    at = offset + image * offset_n + pixel * offset_p + 2 * slots[None, :] * offset_c
    dy = tl.load(at, mask=live, other=0.0).to(tl.float32)
    dx = tl.load(at + offset_c, mask=live, other=0.0).to(tl.float32)
    if HAS_MASK:
        at = mask + image * mask_n + pixel * mask_p + slots[None, :] * mask_c
        modulation = tl.load(at, mask=live, other=0.0).to(tl.float32)
    else:
        modulation = tl.where(live, 1.0, 0.0)
    tap = slots % TAPS
    y = (row * STRIDE_H - PAD_H)[:, None] + (tap // TAPS_W * DILATION_H)[None, :] + dy
    x = (col * STRIDE_W - PAD_W)[:, None] + (tap % TAPS_W * DILATION_W)[None, :] + dx
    top, fy = _split(y, H)
    left, fx = _split(x, W)
    return top, left, fy, fx, modulation, live


@triton.jit
def _channels(slots, chunk, GROUP_C: tl.constexpr, TAPS: tl.constexpr, BLOCK_C: tl.constexpr):
    """Channel of x for each slot and place in the chunk (1, S, B), and which of them exist."""
    c = chunk * BLOCK_C + tl.arange(0, BLOCK_C)
    return ((slots // TAPS * GROUP_C)[:, None] + c[None, :])[None, :, :], (c < GROUP_C)[None, None, :]


@triton.jit
def _corner(
    y, x, channel, exists, live, H, W, C: tl.constexpr, GROUP_C: tl.constexpr, BLOCK_C: tl.constexpr, WIDE: tl.constexpr
):
    """Offsets into an image (M, S, B) of one neighbour, and a mask that is false outside the map."""
    ok = (live & (y >= 0) & (y < H) & (x >= 0) & (x < W))[:, :, None]
    if GROUP_C % BLOCK_C != 0:
        ok = ok & exists
    if WIDE:
        y = y.to(tl.int64)
    return ((y * W + x) * C)[:, :, None] + channel, ok


@triton.jit
def _column(
    source, top, left, fy, fx, modulation, channel, exists, live,
    H, W, C: tl.constexpr, GROUP_C: tl.constexpr, BLOCK_C: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Sampled and modulated input (M, S, B) in float32."""
    lower, upper = modulation * fy, modulation * (1 - fy)
    at, ok = _corner(top, left, channel, exists, live, H, W, C, GROUP_C, BLOCK_C, WIDE)
    column = (upper * (1 - fx))[:, :, None] * tl.load(source + at, mask=ok, other=0.0).to(tl.float32)
    at, ok = _corner(top, left + 1, channel, exists, live, H, W, C, GROUP_C, BLOCK_C, WIDE)
    column += (upper * fx)[:, :, None] * tl.load(source + at, mask=ok, other=0.0).to(tl.float32)
    at, ok = _corner(top + 1, left, channel, exists, live, H, W, C, GROUP_C, BLOCK_C, WIDE)
    column += (lower * (1 - fx))[:, :, None] * tl.load(source + at, mask=ok, other=0.0).to(tl.float32)
    at, ok = _corner(top + 1, left + 1, channel, exists, live, H, W, C, GROUP_C, BLOCK_C, WIDE)
    return column + (lower * fx)[:, :, None] * tl.load(source + at, mask=ok, other=0.0).to(tl.float32)


@triton.jit
def _matrix_rows(
    first, chunk, ALL_SLOTS: tl.constexpr, GROUP_C: tl.constexpr, SLOTS: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Rows of the weight matrix (S*B,) for the slots from ``first`` and a chunk, and which of them exist."""
    r = tl.arange(0, SLOTS * BLOCK_C)
    slot = first + r // BLOCK_C
    c = chunk * BLOCK_C + r % BLOCK_C
    return slot * GROUP_C + c, (slot < ALL_SLOTS) & (c < GROUP_C)


@triton.jit(do_not_specialize_on_alignment=SIZES)
def forward_kernel(
    x, offset, mask, matrix, bias, out,
    H, W, OUT_H, OUT_W, C: tl.constexpr, O: tl.constexpr,
    offset_n, offset_c, offset_p, mask_n, mask_c, mask_p,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    ALL_SLOTS: tl.constexpr, TAPS: tl.constexpr, TAPS_W: tl.constexpr, GROUP_C: tl.constexpr,
    HAS_MASK: tl.constexpr, HAS_BIAS: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, TILE_W: tl.constexpr, BLOCK_O: tl.constexpr, SLOTS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """out (N, OUT_H, OUT_W, O) for x (N, H, W, C) and matrix (G*K*c, O). Grid: pixel tiles, blocks of O."""
    image, row, col, inside = _pixels(tl.program_id(0), OUT_H, OUT_W, BLOCK_M, TILE_W)
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    source = x + image * H * W * C
    CHUNKS: tl.constexpr = (GROUP_C + BLOCK_C - 1) // BLOCK_C
    acc = tl.zeros((BLOCK_M, BLOCK_O), tl.float32)
    for first in range(0, ALL_SLOTS, SLOTS):
        slots = first + tl.arange(0, SLOTS)
        top, left, fy, fx, modulation, live = _positions(
            offset, mask, image, row, col, inside, slots,
            H, W, OUT_W, offset_n, offset_c, offset_p, mask_n, mask_c, mask_p,
            STRIDE_H, STRIDE_W, PAD_H, PAD_W, DILATION_H, DILATION_W, ALL_SLOTS, TAPS, TAPS_W, HAS_MASK,
        )  # fmt: skip
        for chunk in range(CHUNKS):
            channel, exists = _channels(slots, chunk, GROUP_C, TAPS, BLOCK_C)
            column = _column(
                source, top, left, fy, fx, modulation, channel, exists, live, H, W, C, GROUP_C, BLOCK_C, WIDE
            )
            column = tl.reshape(column.to(matrix.dtype.element_ty), (BLOCK_M, SLOTS * BLOCK_C))
            r, known = _matrix_rows(first, chunk, ALL_SLOTS, GROUP_C, SLOTS, BLOCK_C)
            weight = tl.load(matrix + r[:, None] * O + o[None, :], mask=known[:, None] & (o < O)[None, :], other=0.0)
            acc = tl.dot(column, weight, acc, input_precision=PRECISION)
    if HAS_BIAS:
        acc += tl.load(bias + o, mask=o < O, other=0.0).to(tl.float32)[None, :]
    pixel = (image * OUT_H + row) * OUT_W + col
    at = out + pixel[:, None] * O + o[None, :]
    tl.store(at, acc.to(out.dtype.element_ty), mask=inside[:, None] & (o < O)[None, :])


@triton.jit(do_not_specialize_on_alignment=SIZES)
def position_kernel(
    grad, x, offset, mask, matrix, grad_x, grad_offset, grad_mask,
    H, W, OUT_H, OUT_W, C: tl.constexpr, O: tl.constexpr,
    offset_n, offset_c, offset_p, mask_n, mask_c, mask_p,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    ALL_SLOTS: tl.constexpr, TAPS: tl.constexpr, TAPS_W: tl.constexpr, GROUP_C: tl.constexpr,
    HAS_MASK: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    NEEDS_X: tl.constexpr, NEEDS_OFFSET: tl.constexpr, NEEDS_MASK: tl.constexpr,
    BLOCK_M: tl.constexpr, TILE_W: tl.constexpr, BLOCK_O: tl.constexpr, SLOTS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradients of x (float32, added atomically), offset and mask (laid out like those) from grad (N, OUT_H, OUT_W, O).

    Grid: pixel tiles. The gradient of a column is used where it arises and never stored.
    """
    image, row, col, inside = _pixels(tl.program_id(0), OUT_H, OUT_W, BLOCK_M, TILE_W)
    source = x + image * H * W * C
    target = grad_x + image * H * W * C
    CHUNKS: tl.constexpr = (GROUP_C + BLOCK_C - 1) // BLOCK_C
    o = tl.arange(0, BLOCK_O)
    at_grad = grad + ((image * OUT_H + row) * OUT_W + col)[:, None] * O + o[None, :]
    if O <= BLOCK_O:  # one load for all slots
        grad_out = tl.load(at_grad, mask=inside[:, None] & (o < O)[None, :], other=0.0)
    for first in range(0, ALL_SLOTS, SLOTS):
        slots = first + tl.arange(0, SLOTS)
        top, left, fy, fx, modulation, live = _positions(
            offset, mask, image, row, col, inside, slots,
            H, W, OUT_W, offset_n, offset_c, offset_p, mask_n, mask_c, mask_p,
            STRIDE_H, STRIDE_W, PAD_H, PAD_W, DILATION_H, DILATION_W, ALL_SLOTS, TAPS, TAPS_W, HAS_MASK,
        )  # fmt: skip
        # Dot products of the column's gradient with each of the four neighbours.
        dot0 = tl.zeros((BLOCK_M, SLOTS), tl.float32)
        dot1, dot2, dot3 = dot0, dot0, dot0
        for chunk in range(CHUNKS):
            channel, exists = _channels(slots, chunk, GROUP_C, TAPS, BLOCK_C)
            at0, ok0 = _corner(top, left, channel, exists, live, H, W, C, GROUP_C, BLOCK_C, WIDE)
            at1, ok1 = _corner(top, left + 1, channel, exists, live, H, W, C, GROUP_C, BLOCK_C, WIDE)
            at2, ok2 = _corner(top + 1, left, channel, exists, live, H, W, C, GROUP_C, BLOCK_C, WIDE)
            at3, ok3 = _corner(top + 1, left + 1, channel, exists, live, H, W, C, GROUP_C, BLOCK_C, WIDE)
            # Loads first: they cannot be moved across the atomic additions, and fly while the product is computed.
            if NEEDS_OFFSET or NEEDS_MASK:
                value0 = tl.load(source + at0, mask=ok0, other=0.0)
                value1 = tl.load(source + at1, mask=ok1, other=0.0)
                value2 = tl.load(source + at2, mask=ok2, other=0.0)
                value3 = tl.load(source + at3, mask=ok3, other=0.0)
            r, known = _matrix_rows(first, chunk, ALL_SLOTS, GROUP_C, SLOTS, BLOCK_C)
            product = tl.zeros((BLOCK_M, SLOTS * BLOCK_C), tl.float32)
            for start in range(0, O, BLOCK_O):
                if O > BLOCK_O:
                    grad_out = tl.load(at_grad + start, mask=inside[:, None] & (start + o < O)[None, :], other=0.0)
                at = matrix + r[None, :] * O + (start + o)[:, None]
                weight = tl.load(at, mask=known[None, :] & (start + o < O)[:, None], other=0.0)
                product = tl.dot(grad_out, weight, product, input_precision=PRECISION)
            column = tl.reshape(product, (BLOCK_M, SLOTS, BLOCK_C))
            if NEEDS_OFFSET or NEEDS_MASK:
                dot0 += tl.sum(column * value0.to(tl.float32), 2)
                dot1 += tl.sum(column * value1.to(tl.float32), 2)
                dot2 += tl.sum(column * value2.to(tl.float32), 2)
                dot3 += tl.sum(column * value3.to(tl.float32), 2)
            if NEEDS_X:
                lower, upper = modulation * fy, modulation * (1 - fy)
                tl.atomic_add(target + at0, column * (upper * (1 - fx))[:, :, None], mask=ok0, sem="relaxed")
                tl.atomic_add(target + at1, column * (upper * fx)[:, :, None], mask=ok1, sem="relaxed")
                tl.atomic_add(target + at2, column * (lower * (1 - fx))[:, :, None], mask=ok2, sem="relaxed")
                tl.atomic_add(target + at3, column * (lower * fx)[:, :, None], mask=ok3, sem="relaxed")
        pixel = (row * OUT_W + col)[:, None]
        if NEEDS_OFFSET:
            by_y = ((dot2 - dot0) * (1 - fx) + (dot3 - dot1) * fx) * modulation
            by_x = ((dot1 - dot0) * (1 - fy) + (dot3 - dot2) * fy) * modulation
            at = grad_offset + image * offset_n + pixel * offset_p + 2 * slots[None, :] * offset_c
            tl.store(at, by_y.to(grad_offset.dtype.element_ty), mask=live)
            tl.store(at + offset_c, by_x.to(grad_offset.dtype.element_ty), mask=live)
        if NEEDS_MASK:
            by_mask = (dot0 * (1 - fx) + dot1 * fx) * (1 - fy) + (dot2 * (1 - fx) + dot3 * fx) * fy
            at = grad_mask + image * mask_n + pixel * mask_p + slots[None, :] * mask_c
            tl.store(at, by_mask.to(grad_mask.dtype.element_ty), mask=live)


@triton.jit(do_not_specialize_on_alignment=SIZES)
def weight_kernel(
    grad, x, offset, mask, partial,
    N, H, W, OUT_H, OUT_W, C: tl.constexpr, O: tl.constexpr,
    offset_n, offset_c, offset_p, mask_n, mask_c, mask_p,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    ALL_SLOTS: tl.constexpr, TAPS: tl.constexpr, TAPS_W: tl.constexpr, GROUP_C: tl.constexpr,
    HAS_MASK: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, TILE_W: tl.constexpr, BLOCK_O: tl.constexpr, SLOTS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradient of the weight matrix, summed over a part of the pixel tiles: partial (parts, G*K*c, O) in float32.

    Grid: (slot blocks * chunks, blocks of O, parts). The sum over parts is left to the caller, in a fixed order.
    """
    CHUNKS: tl.constexpr = (GROUP_C + BLOCK_C - 1) // BLOCK_C
    first = tl.program_id(0) // CHUNKS * SLOTS
    chunk = tl.program_id(0) % CHUNKS
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    slots = first + tl.arange(0, SLOTS)
    channel, exists = _channels(slots, chunk, GROUP_C, TAPS, BLOCK_C)
    acc = tl.zeros((SLOTS * BLOCK_C, BLOCK_O), tl.float32)
    tiles = N * tl.cdiv(OUT_W, TILE_W) * tl.cdiv(OUT_H, BLOCK_M // TILE_W)
    for tile in range(tl.program_id(2), tiles, tl.num_programs(2)):
        image, row, col, inside = _pixels(tile, OUT_H, OUT_W, BLOCK_M, TILE_W)
        source = x + image * H * W * C
        top, left, fy, fx, modulation, live = _positions(
            offset, mask, image, row, col, inside, slots,
            H, W, OUT_W, offset_n, offset_c, offset_p, mask_n, mask_c, mask_p,
            STRIDE_H, STRIDE_W, PAD_H, PAD_W, DILATION_H, DILATION_W, ALL_SLOTS, TAPS, TAPS_W, HAS_MASK,
        )  # fmt: skip
        column = _column(source, top, left, fy, fx, modulation, channel, exists, live, H, W, C, GROUP_C, BLOCK_C, WIDE)
        column = tl.reshape(column.to(grad.dtype.element_ty), (BLOCK_M, SLOTS * BLOCK_C))
        at = grad + ((image * OUT_H + row) * OUT_W + col)[:, None] * O + o[None, :]
        grad_out = tl.load(at, mask=inside[:, None] & (o < O)[None, :], other=0.0)
        acc = tl.dot(tl.trans(column), grad_out, acc, input_precision=PRECISION)
    r, known = _matrix_rows(first, chunk, ALL_SLOTS, GROUP_C, SLOTS, BLOCK_C)
    at = partial + (tl.program_id(2) * ALL_SLOTS * GROUP_C + r)[:, None] * O + o[None, :]
    tl.store(at, acc, mask=known[:, None] & (o < O)[None, :])
