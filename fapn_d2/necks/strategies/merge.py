"""MERGE: the order in which alignment and fusion are applied, and which of the two inputs take part.

A merge is no module: it is built once, and says what it consumes so that no parameter is built that gets no gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ..registry import MERGES
from .fuse import Sum


@dataclass(frozen=True)
class Merge:
    """``apply(fine, coarse, align, fuse)`` -> merged (N,C,H,W)."""

    apply: Callable
    uses_lateral: bool = True  #: False: there is no lateral; ``fine`` is the raw bottom-up map, read for its size only
    uses_coarse: bool = True  #: False: ``coarse``, ``align`` and ``fuse`` are not used and not built
    fuses: bool = True  #: False: ``fuse`` is not used and not built
    needs: tuple[str, ...] = ()  #: methods that the ALIGN module must have


def _align_then_fuse(fine, coarse, align, fuse):
    # An alignment that can write the sum at once does, unless somebody listens to the two, as pictures and counts do.
    heard = any(m._forward_hooks or m._forward_pre_hooks for m in (align, fuse))
    if isinstance(fuse, Sum) and hasattr(align, "align_and_add") and not heard:
        return align.align_and_add(fine, coarse)
    return fuse(fine, align(fine, coarse))


@MERGES.register
def align_then_fuse():
    """FPN, FaPN, SFNet, AugFPN: the coarse map is aligned to the fine one, then fused with it."""
    return Merge(_align_then_fuse)


@MERGES.register
def fuse_then_align():
    """FaPN, Table 1, the row with a dagger: the upsampled map is fused first and their fusion is aligned."""
    return Merge(
        lambda fine, coarse, align, fuse: align.align_fused(fuse(fine, align.upsample(fine, coarse))),
        needs=("upsample", "align_fused"),
    )


@MERGES.register
def lateral_only():
    """FPN, Tables 1 and 2 (d): no top-down path; every level stands alone."""
    return Merge(lambda fine, coarse, align, fuse: fine, uses_coarse=False, fuses=False)


@MERGES.register
def topdown_only():
    """FPN, Tables 1 and 2 (e): no lateral connections; every level is the coarsest one, upsampled."""
    return Merge(lambda fine, coarse, align, fuse: align(fine, coarse), uses_lateral=False, fuses=False)
