"""Which of the two dense layouts a map (N, C, H, W) has, and giving it a certain one."""

import torch
from torch import Tensor

from .cpu_threads import spread

#: Values below which torch copies with one thread and is as fast.
_SMALL = 2**15


def layout_of(t: Tensor) -> torch.memory_format:
    """Of a map (N,C,H,W): channels-last only if it is not contiguous as well, as maps of one channel or pixel are."""
    channels_last = t.is_contiguous(memory_format=torch.channels_last) and not t.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def laid_out(t: Tensor, layout: torch.memory_format) -> Tensor:
    """``t`` in ``layout``; a copy only where need be. To be called where autograd does not record."""
    if t.device.type != "cpu" or t.numel() < _SMALL or t.is_contiguous(memory_format=layout):
        return t.contiguous(memory_format=layout)
    # torch's own copy follows one layout through the whole map and misses the cache in the other.
    out = torch.empty_like(t, memory_format=layout)

    def copy(row: int) -> None:
        out[:, :, row : row + step].copy_(t[:, :, row : row + step])

    rows = t.shape[2]
    step = -(-rows // (8 * torch.get_num_threads()))
    spread(copy, range(0, rows, step))
    return out


def laid_out_like(t: Tensor, like: Tensor) -> Tensor:
    """`laid_out` as ``like`` is."""
    return laid_out(t, layout_of(like))
