"""The two dense layouts in memory of a map (N,C,H,W), contiguous and channels-last: asking for it and changing it."""

import torch
from torch import Tensor

from .cpu_threads import spread

#: Maps with fewer values than this are copied by torch on one thread, which is as fast.
_SMALL = 2**15


def layout_of(t: Tensor) -> torch.memory_format:
    """The layout of a map (N,C,H,W). Maps of one channel or one pixel have both layouts; they count as contiguous."""
    channels_last = t.is_contiguous(memory_format=torch.channels_last) and not t.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def laid_out(t: Tensor, layout: torch.memory_format) -> Tensor:
    """``t`` in ``layout``, copied only if it has another layout. Call this only where autograd does not record."""
    if t.device.type != "cpu" or t.numel() < _SMALL or t.is_contiguous(memory_format=layout):
        return t.contiguous(memory_format=layout)
    # torch's own copy goes through the whole map in the order of one layout, so in the other it misses the cache.
    out = torch.empty_like(t, memory_format=layout)

    def copy(row: int) -> None:
        out[:, :, row : row + step].copy_(t[:, :, row : row + step])

    rows = t.shape[2]
    step = -(-rows // (8 * torch.get_num_threads()))
    spread(copy, range(0, rows, step))
    return out


def laid_out_like(t: Tensor, like: Tensor) -> Tensor:
    """``t`` in the layout of ``like``; see `laid_out`."""
    return laid_out(t, layout_of(like))
