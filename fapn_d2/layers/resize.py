"""Resampling of a coarse map to the size of a finer one.

Legend: N images, C channels, H x W size of the fine map, h x w size of the coarse map.
"""

import torch
from torch.nn import functional as F

RESIZE_MODES = ("nearest", "bilinear", "bilinear_corners")


def resize_to(coarse: torch.Tensor, size: tuple[int, int], mode: str) -> torch.Tensor:
    """Resample ``coarse`` (N,C,h,w) to ``size`` = (H, W) in pixels; a map that already has this size is returned
    unchanged.

    The target size is given and not a factor, so any ratio between two levels works. ``bilinear`` has
    ``align_corners=False``, as in the official FaPN; ``bilinear_corners`` has ``align_corners=True``, as in the
    official SFNet.

    Raises:
        ValueError: ``mode`` is not in RESIZE_MODES.
    """
    # An export with free sizes must not depend on whether two sizes are equal. Resampling to the same size is exact.
    if not torch.compiler.is_exporting() and coarse.shape[-2:] == tuple(size):
        return coarse
    if mode == "nearest":
        return F.interpolate(coarse, size=size, mode="nearest")
    if mode in ("bilinear", "bilinear_corners"):
        return F.interpolate(coarse, size=size, mode="bilinear", align_corners=mode == "bilinear_corners")
    raise ValueError(f"unknown resampling mode {mode!r}; allowed: {', '.join(RESIZE_MODES)}")


def shrink_masks(masks: torch.Tensor, size: tuple[int, int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Masks (M,H,W) of bool or integers -> (M,h,w) in ``dtype``: bilinear, ``align_corners=False``.

    The same as ``F.interpolate``, which would need all masks in ``dtype`` at their full size.
    """
    shrunk = torch.zeros(len(masks), *size, dtype=dtype, device=masks.device)
    for rows, columns, weight in _bilinear_taps(masks.shape[-2:], size, masks.device):
        shrunk += masks[:, rows[:, None], columns] * weight.to(dtype)
    return shrunk


def shrink_labels(
    labels: torch.Tensor, num_classes: int, size: tuple[int, int], dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Class numbers (H,W) -> (K,h,w) in ``dtype``: the one-hot map of K classes, resized as by `shrink_masks`.

    Numbers from K on belong to no class.
    """
    classes = torch.arange(num_classes, device=labels.device)[:, None, None]
    shrunk = torch.zeros(num_classes, *size, dtype=dtype, device=labels.device)
    for rows, columns, weight in _bilinear_taps(labels.shape, size, labels.device):
        shrunk += (labels[rows[:, None], columns] == classes) * weight.to(dtype)
    return shrunk


def _bilinear_taps(old: tuple[int, int], new: tuple[int, int], device: torch.device):
    """Four (rows (h,), columns (w,), weights (h,w) in float64): the pixels that bilinear resampling reads."""
    (top, bottom, down), (left, right, across) = (_linear_taps(*sizes, device) for sizes in zip(old, new))
    for rows, of_rows in ((top, 1 - down), (bottom, down)):
        for columns, of_columns in ((left, 1 - across), (right, across)):
            yield rows, columns, of_rows[:, None] * of_columns


def _linear_taps(old: int, new: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Along one side: the two pixels that each new one lies between, and how far it is from the first, 0 to 1."""
    centers = (torch.arange(new, dtype=torch.float64, device=device) + 0.5) * (old / new) - 0.5
    centers = centers.clamp(min=0)
    first = centers.long()
    return first, (first + 1).clamp(max=old - 1), centers - first
