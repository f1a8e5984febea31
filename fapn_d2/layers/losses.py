"""Losses of semantic segmentation.

Legend: N images, K classes, H x W size; p the probability that a pixel's prediction gives its true class.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .operator_support import at_least_float32


def pixel_cross_entropy(logits: Tensor, target: Tensor, *, ignore_value: int = 255) -> Tensor:
    """Mean cross entropy of the pixels that are not ignored, in float32 or better.

    Args:
        logits: the logits (N, K, H, W).
        target: the labels (N, H, W), integers below K, or ``ignore_value``.

    Returns:
        A scalar; 0, with gradients that are 0, where every pixel is ignored.
    """
    losses, valid = _pixel_losses(logits, target, ignore_value)
    return losses.sum() / valid.sum().clamp(min=1)


def ohem_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_value: int = 255,
    threshold: float = 0.7,
    keep_fraction: float = 0.0,
    min_kept: int = 0,
    min_kept_per_image: int = 0,
) -> Tensor:
    """Mean cross entropy of the hard pixels: those with p <= ``threshold``, and at least the k hardest of the batch.

    k is the greatest of three numbers: ``min_kept``, ``min_kept_per_image`` * N, and ``keep_fraction`` of the pixels
    that are not ignored. If there are no more than k pixels, all are used. If k is 0, all are used as well, as in
    SFNet's official code. If several pixels are as hard as the k-th one, all of these are kept.

    SFNet, Section 3.3, keeps the 10 % hardest pixels: threshold 0, keep_fraction 0.1. The authors' code has threshold
    0.7 with min_kept_per_image 100,000 (9.5 % of a crop of 1024 x 1024), or with min_kept 10,000 or 100,000.

    Args and returns: see ``pixel_cross_entropy``.
    """
    losses, valid = _pixel_losses(logits, target, ignore_value)
    with torch.no_grad():
        kept = valid
        of_valid = losses[valid]
        count = of_valid.numel()
        k = max(min_kept, min_kept_per_image * len(target), math.ceil(keep_fraction * count))
        if 0 < k < count:
            limit = of_valid.kthvalue(count - k + 1).values
            if threshold > 0:
                limit = limit.clamp(max=-math.log(threshold))
            kept = valid & (losses >= limit)
    return (losses * kept).sum() / kept.sum().clamp(min=1)


def _pixel_losses(logits: Tensor, target: Tensor, ignore_value: int) -> tuple[Tensor, Tensor]:
    """Two maps (N,H,W): the cross entropy, 0 where a pixel is ignored; and whether a pixel is not ignored."""
    (logits,) = at_least_float32(logits.dtype, logits)
    losses = F.cross_entropy(logits, target, ignore_index=ignore_value, reduction="none")
    return losses, target != ignore_value


def squared_dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - 2 sum(q t) / max(sum(q^2) + sum(t^2), 1e-8) with q = sigmoid(logits), in float32 or better.

    Milletari et al., "V-Net", 2016, Section 3, as PanopticFCN uses it (its Equation 7).

    Args:
        logits: the logits (M, J, P), J predictions for each of M masks of P pixels.
        target: the masks (M, P), 0 to 1.

    Returns:
        (M, J).
    """
    logits, target = at_least_float32(logits.dtype, logits, target)
    q = logits.sigmoid()
    with torch.autocast(q.device.type, enabled=False):
        # as products of matrices, which keep no map of products for the gradient
        overlap = torch.einsum("mjp,mp->mj", q, target)
        size = torch.einsum("mjp,mjp->mj", q, q) + target.square().sum(dim=-1)[:, None]
    return 1 - 2 * overlap / size.clamp(min=1e-8)
