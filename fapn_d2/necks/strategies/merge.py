"""MERGE: the order in which alignment and fusion are applied, and which of the two inputs take part."""

from ..parts import Align, Merge
from ..registry import MERGES
from .fuse import Sum


def _align_then_fuse(fine, coarse, align: Align, fuse):
    # Writing the sum at once saves a pass over the map, but hooks on the two parts would not be called.
    if align.adds_in_one_pass and isinstance(fuse, Sum) and not (align.is_watched or fuse.is_watched):
        return align.align_and_add(fine, coarse)
    return fuse(fine, align(fine, coarse))


def _fuse_then_align(fine, coarse, align: Align, fuse):
    fused = fuse(fine, align.upsample(fine, coarse))
    return align(fused, fused)


@MERGES.register
def align_then_fuse():
    """FPN, FaPN, SFNet, AugFPN: the coarse map is aligned to the fine one, then fused with it."""
    return Merge(_align_then_fuse)


@MERGES.register
def fuse_then_align():
    """FaPN, Table 1, the row with a dagger: the upsampled map is fused first, then the fused map is aligned."""
    return Merge(_fuse_then_align, aligns_fused=True)


@MERGES.register
def lateral_only():
    """FPN, Tables 1 and 2 (d): no top-down path; the levels are independent."""
    return Merge(lambda fine, coarse, align, fuse: fine, uses_coarse=False, fuses=False)


@MERGES.register
def topdown_only():
    """FPN, Tables 1 and 2 (e): no lateral connections; every level is the coarsest one, upsampled."""
    return Merge(lambda fine, coarse, align, fuse: align(fine, coarse), uses_lateral=False, fuses=False)
