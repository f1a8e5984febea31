"""Modulated deformable convolution on the CPU: weighted gathers of whole channel groups, then matrix products.

Letters: N images, C input and O output channels, H x W input and h x w output size, P = N*h*w output pixels, K kernel
taps, G offset groups of c = C/G channels.

The input is copied once into a table. One row holds the c channels of one group at one pixel, so bilinear sampling is a
weighted sum of four rows. ``embedding_bag`` computes this sum (on x86 by a vectorised FBGEMM kernel) and writes the
columns of the matrix product directly. Pixels are processed in pieces whose columns stay in the cache, so no buffer of
K times the map is needed. In the forward pass each thread works on pieces of pixels. The backward pass recomputes the
columns, and each thread works on groups: samples of different groups read different rows, so no two threads add to the
same gradient.

All results are deterministic. Half precision is computed in float32 and rounded at the end.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cpu_threads import spread
from ..memory_layout import laid_out, layout_of
from ..operator_support import at_least_float32

#: Size in bytes of the columns of one piece in the forward pass.
PIECE_FORWARD = 3 * 2**20
#: Number of samples in one piece of one group in the backward pass. In larger pieces more samples share a cell, as long
#: as the columns stay in the cache. From 32768 elements on, torch uses radix sort, which is seven times as fast.
PIECE_BACKWARD = 40_000

#: Number of column elements below which `is_small` is true.
SMALL_FORWARD, SMALL_BACKWARD = 80_000, 12_000

# Zero rows and columns before and after the map. Coordinates are clamped to [-2, H] x [-2, W], where all four
# neighbours are padding: outside the map both the value and its derivative are then zero without a special case.
_PAD_BEFORE, _PAD_AFTER = 2, 2


class _Piece(NamedTuple):
    """Sampling positions of some output pixels and groups: tensors (pixels, groups, K), or with 4 corners last."""

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


class _Sampler:
    """Where each output pixel samples; holds the padded table of input rows."""

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

    def piece(self, rows: slice, groups: slice) -> _Piece:
        """The positions of the output pixels ``rows`` in ``groups``."""
        y0, fy = self._split(self.offset_y[rows, groups] + (self.grid_y[rows] + self.tap_y), self.size[0])
        x0, fx = self._split(self.offset_x[rows, groups] + (self.grid_x[rows] + self.tap_x), self.size[1])
        base = y0.mul_(self.pitch).add_(x0).mul_(self.groups).add_(self.first_row[rows, groups])
        index = base.new_empty(*base.shape, 4)
        for corner, step in enumerate(self.corners):
            torch.add(base, step, out=index[..., corner])

        weight = fy.new_empty(*fy.shape, 4)
        mask = None if self.mask is None else self.mask[rows, groups]
        bottom = fy if mask is None else mask * fy
        top = (1 if mask is None else mask) - bottom
        for corner, row in ((1, top), (3, bottom)):
            right = torch.mul(row, fx, out=weight[..., corner])
            torch.sub(row, right, out=weight[..., corner - 1])
        return _Piece(index, weight, fy, fx, mask)

    def _split(self, coordinate: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Whole part as an index into the padded table, and fractional part."""
        coordinate = coordinate.clamp_(-_PAD_BEFORE, size)
        whole = coordinate.floor()
        fraction = coordinate.sub_(whole)
        # The second clamp is for NaN, which must reach the output through the fraction and not become an invalid
        # address.
        index = whole.add_(_PAD_BEFORE).to(self.first_row.dtype).clamp_(0, size + _PAD_BEFORE)
        return index, fraction

    def columns(self, piece: _Piece) -> Tensor:
        """Sampled and modulated input, (pixels, groups*K*c)."""
        index, weight = piece.index.view(-1, 4), piece.weight.view(-1, 4)
        return F.embedding_bag(index, self.table, mode="sum", per_sample_weights=weight).view(len(piece.index), -1)

    def dots(self, piece: _Piece, grad_columns: Tensor) -> Tensor:
        """Products of the columns' gradient, (pixels*groups*K, c), with the corners, (pixels, groups, K, 4)."""
        # They are the derivatives of the bags by their weights. Only autograd's own kernel computes them without a copy
        # of all rows; it has no public name, and autograd does not record inside an operator.
        bag = torch.arange(len(grad_columns), dtype=piece.index.dtype)
        return torch.ops.aten._embedding_bag_per_sample_weights_backward(
            grad_columns, self.table, piece.index.view(-1), 4 * bag, bag.repeat_interleave(4), 0
        ).view(piece.index.shape)

    def scatter(self, piece: _Piece, grad_columns: Tensor, grad_table: Tensor) -> None:
        """Add the gradient of the piece's columns, (pixels*groups*K, c), to that of the table rows they came from."""
        # Some ten samples share a cell (four corners): sum each cell's samples first, again as weighted bags, so that
        # the slow scattered addition sees a tenth of the rows, and each row once for each corner.
        cell, order = torch.sort(piece.index.view(-1, 4)[:, 0], stable=True)
        cell, count = torch.unique_consecutive(cell, return_counts=True)
        first = count.cumsum(0) - count
        weight = piece.weight.view(-1, 4).t()[:, order].contiguous()
        for corner, step in enumerate(self.corners):
            bags = F.embedding_bag(order, grad_columns, first, mode="sum", per_sample_weights=weight[corner])
            grad_table.index_add_(0, cell.long() + step, bags)


def _slices(start: int, stop: int, step: int) -> Iterator[slice]:
    step = max(1, step)
    return (slice(first, min(first + step, stop)) for first in range(start, stop, step))


def _even_slices(total: int, step: int, number: int) -> list[slice]:
    """Slices of at most ``step``, as many as a multiple of ``number``, of nearly the same length."""
    rounds = -(-total // (max(1, step) * number))
    return list(_slices(0, total, -(-total // max(1, rounds * number))))


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
    """Whether torchvision is faster.

    The time of torchvision grows with the number of columns. The time of this file grows, more slowly, with the number
    of table rows that are read, and some thirty calls add a fixed cost.
    """
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
    pixels = offset.shape[2] * offset.shape[3]
    # The output has the layout of the input: changing the layout of a whole map would take a sixth of the convolution's
    # time; changing that of a piece in the cache takes none.
    shape = (len(x), pixels, len(weight))
    out = x.new_empty(shape) if layout_of(x) == torch.channels_last else x.new_empty(shape[0], shape[2], shape[1]).mT

    def fill(portion: tuple[int, slice]) -> None:
        image, rows = portion
        first = image * pixels
        piece = sampler.piece(slice(first + rows.start, first + rows.stop), slice(None))
        product = _product(sampler.columns(piece), matrix)
        if bias is not None:
            product += bias
        out[image, rows] = product

    step = PIECE_FORWARD // (matrix.shape[0] * matrix.element_size())
    slices = _even_slices(pixels, step, -(-torch.get_num_threads() // max(1, len(x))))
    spread(fill, [(image, rows) for image in range(len(x)) for rows in slices])
    return out.mT.unflatten(2, offset.shape[-2:]).to(dtype)


def backward(
    grad, x, offset, mask, weight, stride, padding, dilation, needs: tuple[bool, bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x, offset, mask and weight, each where ``needs`` asks for it, given the output's (N, O, h, w)."""
    needs_x, needs_offset, needs_mask, needs_weight = needs
    like = (x, offset, mask, weight)
    grad, x, offset, mask, weight = at_least_float32(x.dtype, grad, x, offset, mask, weight)
    sampler = _Sampler(x, offset, mask, weight.shape[-2:], stride, padding, dilation)
    threads, taps, c = torch.get_num_threads(), sampler.taps, sampler.table.shape[1]
    # Portions: some groups in a run of whole images. One group, or where maps are small as many as leave a portion to
    # each thread; as many runs as give each thread a portion.
    together = min(-(-sampler.groups // threads), PIECE_BACKWARD // max(1, sampler.pixels * taps))
    parts = list(_slices(0, sampler.groups, together))
    runs = _even_slices(len(x), len(x), -(-threads // len(parts)))
    # oneDNN multiplies by a part of a wider matrix a thousand times slower than by a copy of it.
    matrix = _as_matrix(weight, sampler.groups)
    matrices = [matrix[:, part.start * taps * c : part.stop * taps * c].contiguous() for part in parts]
    grad = laid_out(grad, torch.channels_last).permute(0, 2, 3, 1).reshape(sampler.pixels, len(weight))

    pixels = offset.shape[2] * offset.shape[3]
    grad_table = torch.zeros_like(sampler.table) if needs_x else None
    grad_matrices = [m.new_zeros(len(runs), *m.shape) for m in matrices] if needs_weight else None
    shape = (sampler.pixels, sampler.groups, taps)
    grad_offset = x.new_empty(2, *shape) if needs_offset else None
    grad_mask = x.new_empty(shape) if needs_mask else None

    def add(portion: tuple[int, int]) -> None:
        run, number = portion
        images, groups = runs[run], parts[number]
        step = PIECE_BACKWARD // (taps * (groups.stop - groups.start))
        for rows in _slices(images.start * pixels, images.stop * pixels, step):
            piece = sampler.piece(rows, groups)
            if needs_weight:
                grad_matrices[number][run] += _product(grad[rows].t(), sampler.columns(piece))
            if not (needs_x or needs_offset or needs_mask):
                continue
            grad_columns = _product(grad[rows], matrices[number]).view(-1, c)
            if needs_x:
                sampler.scatter(piece, grad_columns, grad_table)
            if needs_offset or needs_mask:
                by_y, by_x, by_mask = piece.position_gradients(sampler.dots(piece, grad_columns))
                if needs_offset:
                    grad_offset[0, rows, groups], grad_offset[1, rows, groups] = by_y, by_x
                if needs_mask:
                    grad_mask[rows, groups] = by_mask

    spread(add, [(run, number) for run in range(len(runs)) for number in range(len(parts))])
    grad_x = sampler.interior(grad_table.view(sampler.shape)) if needs_x else None
    if needs_offset:
        grad_offset = grad_offset.unflatten(1, (len(x), pixels)).permute(1, 3, 4, 0, 2).reshape(offset.shape)
    if needs_mask:
        grad_mask = grad_mask.unflatten(0, (len(x), pixels)).permute(0, 2, 3, 1).reshape(mask.shape)
    grad_weight = None
    if needs_weight:
        grad_weight = _as_weight(torch.cat([m.sum(0) for m in grad_matrices], dim=1), weight, sampler.groups)
    grads = (grad_x, grad_offset, grad_mask, grad_weight)
    return tuple(None if g is None else g.to(t.dtype) for g, t in zip(grads, like))
