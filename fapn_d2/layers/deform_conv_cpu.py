"""Modulated deformable convolution on the CPU: weighted gathers of whole channel groups, then matrix products.

Letters: N images, C input and O output channels, H x W input and h x w output size, P = N*h*w output pixels, K kernel
taps, G offset groups of c = C/G channels.

The input is laid out once as a table whose row is one group's c channels at one pixel, so bilinear sampling is a
weighted sum of four table rows. ``embedding_bag`` is exactly that sum (on x86 it is a vectorised FBGEMM kernel): it
writes the columns of the matrix product directly. Pixels are processed in blocks (their positions) and pieces of blocks
(their columns) that stay in the cache, hence no buffer of K times the map. The backward pass recomputes the columns.

Everything here is deterministic. Half precisions are computed in float32 and rounded at the end.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .deform_conv_torchvision import at_least_float32

#: Size of the columns of one piece, and of the indices and weights of one block. On idle processors smaller ones are a
#: little faster, being nearer to the cores; but where threads wait for a busy processor, every call may cost a slice of
#: its time, so that few calls on larger portions win by far.
PIECE_BYTES, BLOCK_BYTES = 16 * 2**20, 32 * 2**20

#: Column elements below which `is_small` holds.
SMALL_FORWARD, SMALL_BACKWARD = 50_000, 12_000

# Zero rows and columns before and after the map. Coordinates are clamped to [-2, H] x [-2, W], where all four
# neighbours are padding: outside the map both the value and its derivative are then zero without a special case.
_PAD_BEFORE, _PAD_AFTER = 2, 2


class _Block(NamedTuple):
    """Sampling positions of the output pixels ``rows``; all tensors (pixels, G, K), with 4 corners last where said."""

    rows: slice
    index: Tensor  # (..., 4) table row of the corners (top left, top right, bottom left, bottom right)
    weight: Tensor  # (..., 4) bilinear weight times mask
    fy: Tensor  # fractional part of y
    fx: Tensor
    mask: Tensor | None

    def position_gradients(self, dots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of dy, dx and mask from the products of the column's gradient with the corners, (..., 4)."""
        top_left, top_right, bottom_left, bottom_right = dots.unbind(-1)
        top = torch.lerp(top_left, top_right, self.fx)
        bottom = torch.lerp(bottom_left, bottom_right, self.fx)
        by_y = bottom - top
        by_x = torch.lerp(top_right - top_left, bottom_right - bottom_left, self.fy)
        by_mask = torch.lerp(top, bottom, self.fy)
        if self.mask is not None:
            by_y, by_x = by_y * self.mask, by_x * self.mask
        return by_y, by_x, by_mask


class _Piece(NamedTuple):
    """A part of a block: which rows of it, and its index and weight, (pixels*G*K, 4)."""

    rows: slice
    index: Tensor
    weight: Tensor


class _Sampler:
    """Where each output pixel samples, in pieces; holds the padded table of input rows."""

    def __init__(self, x, offset, mask, kernel, stride, padding, dilation):
        n, c, height, width = x.shape
        out_h, out_w = offset.shape[-2:]
        k = kernel[0] * kernel[1]
        g = offset.shape[1] // (2 * k)
        self.groups, self.taps, self.pixels, self.size = g, k, n * out_h * out_w, (height, width)
        padded_h, self.pitch = (s + _PAD_BEFORE + _PAD_AFTER for s in (height, width))
        self.corners = (0, g, self.pitch * g, (self.pitch + 1) * g)
        table = x.new_zeros(n, padded_h, self.pitch, c)
        self.interior(table).copy_(x)
        self.table = table.view(-1, c // g)
        self.shape = table.shape

        # Offset channels are group-major, then taps in row-major order, then (dy, dx).
        offset = offset.reshape(n, g, k, 2, out_h * out_w).permute(3, 0, 4, 1, 2)
        self.offset_y, self.offset_x = (o.reshape(self.pixels, g, k).contiguous() for o in offset)
        self.mask = None if mask is None else _to_pixels(mask.flatten(2).unflatten(1, (g, k)), self.pixels)

        new = {"dtype": x.dtype, "device": x.device}
        grid_y = torch.arange(out_h, **new) * stride[0] - padding[0]
        grid_x = torch.arange(out_w, **new) * stride[1] - padding[1]
        self.grid_y = grid_y.view(1, -1, 1).expand(n, out_h, out_w).reshape(-1, 1, 1)
        self.grid_x = grid_x.view(1, 1, -1).expand(n, out_h, out_w).reshape(-1, 1, 1)
        self.tap_y = (torch.arange(kernel[0], **new) * dilation[0]).repeat_interleave(kernel[1])
        self.tap_x = (torch.arange(kernel[1], **new) * dilation[1]).repeat(kernel[0])
        index = {"dtype": torch.int32 if len(self.table) < 2**31 else torch.int64, "device": x.device}
        image = torch.arange(n, **index).repeat_interleave(out_h * out_w) * (padded_h * self.pitch * g)
        self.first_row = image.view(-1, 1, 1) + torch.arange(g, **index).view(-1, 1)

    @staticmethod
    def interior(table: Tensor) -> Tensor:
        """The map inside a padded (N, H', W', C) table, as a view (N, C, H, W)."""
        return table[:, _PAD_BEFORE:-_PAD_AFTER, _PAD_BEFORE:-_PAD_AFTER].permute(0, 3, 1, 2)

    def blocks(self) -> Iterator[_Block]:
        bytes_per_pixel = 4 * self.groups * self.taps * (self.table.element_size() + self.first_row.element_size())
        for rows in _slices(self.pixels, BLOCK_BYTES // bytes_per_pixel):
            yield self._block(rows)

    def pieces(self, block: _Block) -> Iterator[_Piece]:
        bytes_per_pixel = self.groups * self.taps * self.table.shape[1] * self.table.element_size()
        for rows in _slices(len(block.index), PIECE_BYTES // bytes_per_pixel):
            yield _Piece(rows, block.index[rows].view(-1, 4), block.weight[rows].view(-1, 4))

    def _block(self, rows: slice) -> _Block:
        y0, fy = self._split(self.offset_y[rows] + (self.grid_y[rows] + self.tap_y), self.size[0])
        x0, fx = self._split(self.offset_x[rows] + (self.grid_x[rows] + self.tap_x), self.size[1])
        base = y0.mul_(self.pitch).add_(x0).mul_(self.groups).add_(self.first_row[rows])
        index = base.new_empty(*base.shape, 4)
        for corner, step in enumerate(self.corners):
            torch.add(base, step, out=index[..., corner])

        weight = fy.new_empty(*fy.shape, 4)
        mask = None if self.mask is None else self.mask[rows]
        bottom = fy if mask is None else mask * fy
        top = (1 if mask is None else mask) - bottom
        for corner, row in ((1, top), (3, bottom)):
            right = torch.mul(row, fx, out=weight[..., corner])
            torch.sub(row, right, out=weight[..., corner - 1])
        return _Block(rows, index, weight, fy, fx, mask)

    def _split(self, coordinate: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Whole part as an index into the padded table, and fractional part."""
        coordinate = coordinate.clamp_(-_PAD_BEFORE, size)
        whole = coordinate.floor()
        fraction = coordinate.sub_(whole)
        # The second clamp is for NaN, which must reach the output through the fraction, not as a wild address.
        index = whole.add_(_PAD_BEFORE).to(self.first_row.dtype).clamp_(0, size + _PAD_BEFORE)
        return index, fraction

    def columns(self, piece: _Piece) -> Tensor:
        """Sampled and modulated input, (pixels, G*K*c)."""
        bags = F.embedding_bag(piece.index, self.table, mode="sum", per_sample_weights=piece.weight)
        return bags.view(-1, self.groups * self.taps * self.table.shape[1])

    def dots(self, piece: _Piece, grad_columns: Tensor) -> Tensor:
        """Products of the columns' gradient, (pixels*G*K, c), with the four corners, (pixels*G*K, 4)."""
        # They are the derivatives of the bags by their weights. Only autograd's own kernel computes them without a copy
        # of all rows; it has no public name, and autograd does not record inside an operator.
        bag = torch.arange(len(piece.index), dtype=piece.index.dtype)
        return torch.ops.aten._embedding_bag_per_sample_weights_backward(
            grad_columns, self.table, piece.index.view(-1), 4 * bag, bag.repeat_interleave(4), 0
        ).view(-1, 4)

    def scatter(self, piece: _Piece, grad_columns: Tensor, grad_table: Tensor) -> None:
        """Add the gradient of the piece's columns, (pixels*G*K, c), to that of the table rows they came from."""
        # Some ten samples share a cell (four corners): sum each cell's samples first, again as weighted bags, so that
        # the slow scattered addition sees a tenth of the rows, and each row once for each corner.
        cell, order = torch.sort(piece.index[:, 0], stable=True)
        cell, count = torch.unique_consecutive(cell, return_counts=True)
        first = count.cumsum(0) - count
        weight = piece.weight.t()[:, order].contiguous()
        for corner, step in enumerate(self.corners):
            bags = F.embedding_bag(order, grad_columns, first, mode="sum", per_sample_weights=weight[corner])
            grad_table.index_add_(0, cell.long() + step, bags)


def _slices(total: int, step: int) -> Iterator[slice]:
    step = max(1, step)
    return (slice(start, min(start + step, total)) for start in range(0, total, step))


def _to_pixels(t: Tensor, pixels: int) -> Tensor:
    """(N, ..., h*w) -> (P, ...) contiguous."""
    return t.movedim(-1, 1).reshape(pixels, *t.shape[1:-1]).contiguous()


def _product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of two matrices.

    torch gives float32 products to MKL, which halves the speed of AMD's AVX-512 processors; oneDNN is as fast as MKL
    on Intel's and twice as fast there. Its linear layer, the one torch.compile uses, takes any strides.
    """
    if a.dtype == torch.float32 and torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled:
        return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")
    return a @ b


def _as_matrix(weight: Tensor, groups: int) -> Tensor:
    """(O, C, kh, kw) -> (O, G*K*c), the order of the columns."""
    o, c = weight.shape[:2]
    return weight.reshape(o, groups, c // groups, -1).transpose(2, 3).reshape(o, -1)


def _as_weight(matrix: Tensor, like: Tensor, groups: int) -> Tensor:
    """Inverse of `_as_matrix`."""
    o, c = like.shape[:2]
    return matrix.view(o, groups, -1, c // groups).transpose(2, 3).reshape(like.shape)


def is_small(x: Tensor, offset: Tensor, weight: Tensor, *, backward: bool) -> bool:
    """Whether torchvision is faster: it pays for every column, this file a little for every row of the table it reads
    and a fixed cost of some thirty calls."""
    n, offset_channels, out_h, out_w = offset.shape
    taps = weight.shape[2] * weight.shape[3]
    rows, groups = n * out_h * out_w * taps, offset_channels // (2 * taps)
    limit = SMALL_BACKWARD if backward else SMALL_FORWARD
    return rows > 0 and rows * (x.shape[1] - 2 * groups) < limit  # torchvision refuses an empty batch


def forward(x, offset, mask, weight, bias, stride, padding, dilation) -> Tensor:
    """Output (N, O, h, w) in the dtype of ``x``; arguments as in `modulated_deform_conv2d`, stride etc. as pairs."""
    dtype = x.dtype
    x, offset, mask, weight, bias = at_least_float32(dtype, x, offset, mask, weight, bias)
    sampler = _Sampler(x, offset, mask, weight.shape[-2:], stride, padding, dilation)
    matrix = _as_matrix(weight, sampler.groups).t()
    out = x.new_empty(sampler.pixels, len(weight))
    for block in sampler.blocks():
        for piece in sampler.pieces(block):
            out[block.rows][piece.rows] = _product(sampler.columns(piece), matrix)
    if bias is not None:
        out += bias
    return out.view(len(x), *offset.shape[-2:], len(weight)).permute(0, 3, 1, 2).to(dtype)


def backward(
    grad, x, offset, mask, weight, stride, padding, dilation, needs: tuple[bool, bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x, offset, mask and weight, each where ``needs`` asks for it, given the output's (N, O, h, w)."""
    needs_x, needs_offset, needs_mask, needs_weight = needs
    like = (x, offset, mask, weight)
    grad, x, offset, mask, weight = at_least_float32(x.dtype, grad, x, offset, mask, weight)
    sampler = _Sampler(x, offset, mask, weight.shape[-2:], stride, padding, dilation)
    matrix = _as_matrix(weight, sampler.groups)
    grad = _to_pixels(grad.flatten(2), sampler.pixels)

    grad_table = torch.zeros_like(sampler.table) if needs_x else None
    grad_matrix = torch.zeros_like(matrix) if needs_weight else None
    pixels = offset.shape[2] * offset.shape[3]
    shape = (sampler.pixels, sampler.groups, sampler.taps)
    grad_offset = x.new_empty(2, *shape) if needs_offset else None
    grad_mask = x.new_empty(shape) if needs_mask else None
    for block in sampler.blocks():
        dots = torch.empty_like(block.weight)
        for piece in sampler.pieces(block):
            grad_out = grad[block.rows][piece.rows]
            if needs_weight:
                grad_matrix += _product(grad_out.t(), sampler.columns(piece))
            if not (needs_x or needs_offset or needs_mask):
                continue
            grad_columns = _product(grad_out, matrix).view(-1, sampler.table.shape[1])
            if needs_x:
                sampler.scatter(piece, grad_columns, grad_table)
            if needs_offset or needs_mask:
                dots[piece.rows].view(-1, 4).copy_(sampler.dots(piece, grad_columns))
        if needs_offset or needs_mask:
            by_y, by_x, by_mask = block.position_gradients(dots)
            if needs_offset:
                grad_offset[0, block.rows], grad_offset[1, block.rows] = by_y, by_x
            if needs_mask:
                grad_mask[block.rows] = by_mask

    grad_x = sampler.interior(grad_table.view(sampler.shape)) if needs_x else None
    if needs_offset:
        grad_offset = grad_offset.unflatten(1, (len(x), pixels)).permute(1, 3, 4, 0, 2).reshape(offset.shape)
    if needs_mask:
        grad_mask = grad_mask.unflatten(0, (len(x), pixels)).permute(0, 2, 3, 1).reshape(mask.shape)
    grad_weight = _as_weight(grad_matrix, weight, sampler.groups) if needs_weight else None
    grads = (grad_x, grad_offset, grad_mask, grad_weight)
    return tuple(None if g is None else g.to(t.dtype) for g, t in zip(grads, like))
