"""Which of the two dense layouts a map has, and giving a map that of another."""

import torch
from torch import Tensor


def layout_of(t: Tensor) -> torch.memory_format:
    """Of a map (N,C,H,W): channels-last only if it is not contiguous as well, as maps of one channel or pixel are."""
    channels_last = t.is_contiguous(memory_format=torch.channels_last) and not t.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def laid_out_like(t: Tensor, like: Tensor) -> Tensor:
    """``t`` in the layout of ``like``; a copy only where need be."""
    return t.contiguous(memory_format=layout_of(like))
