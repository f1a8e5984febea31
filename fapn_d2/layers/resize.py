"""Resampling of a coarse map to the size of a finer one.

Legend: N images, C channels, H x W size of the fine map, h x w size of the coarse map.
"""

import torch
from torch.nn import functional as F

RESIZE_MODES = ("nearest", "bilinear", "bilinear_corners")


def resize_to(coarse: torch.Tensor, size: tuple[int, int], mode: str) -> torch.Tensor:
    """Resample ``coarse`` (N,C,h,w) to ``size`` = (H, W) in pixels; a map that has the size already is returned as is.

    The target size is given, not a factor, so that any ratio between two levels works. ``bilinear`` is with
    ``align_corners=False``, as in the official FaPN; ``bilinear_corners`` with True, as in the official SFNet.

    Raises:
        ValueError: ``mode`` is not in RESIZE_MODES.
    """
    # An export with free sizes must not depend on whether two of them are equal; resampling to the same size is exact.
    if not torch.compiler.is_exporting() and coarse.shape[-2:] == tuple(size):
        return coarse
    if mode == "nearest":
        return F.interpolate(coarse, size=size, mode="nearest")
    if mode in ("bilinear", "bilinear_corners"):
        return F.interpolate(coarse, size=size, mode="bilinear", align_corners=mode == "bilinear_corners")
    raise ValueError(f"unknown resampling mode {mode!r}; allowed: {', '.join(RESIZE_MODES)}")
