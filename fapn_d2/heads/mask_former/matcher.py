"""Matching of queries with targets: Cheng et al., NeurIPS 2021, Section 3.2 and Appendix A.

Letters: N images, Q queries, T_n targets of image n, K classes, L layers, h x w size of the predicted masks, H x W size
of the targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

#: Focal loss (Lin et al., ICCV 2017) of masks: weight of pixels inside, and exponent.
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
#: Replaces costs that are not numbers. It is larger than any cost.
_NO_NUMBER = 1e6


@dataclass(frozen=True)
class Targets:
    """The regions of one image."""

    labels: Tensor  #: (T,) class numbers below K
    masks: Tensor  #: (T,H,W) bool; all images of a batch have one H x W


@dataclass(frozen=True)
class Matching:
    """Pairs of all layers and images, in the order of layers, then images, then queries; four (P,) index tensors."""

    layer: Tensor
    image: Tensor
    query: Tensor
    target: Tensor

    def to(self, device: torch.device) -> "Matching":
        """The same pairs on another device, transferred in one copy."""
        return Matching(*torch.stack([self.layer, self.image, self.query, self.target]).to(device, non_blocking=True))


class HungarianMatcher:
    """The assignment with the lowest cost, for each layer and image separately.

    The cost of a pair is ``class_weight * -p(class)`` + ``mask_weight * focal`` + ``dice_weight * dice``. Masks are
    compared on the grid of the predictions; targets are resized to it by nearest neighbours. (The losses, in contrast,
    are computed at the size of the targets.)
    """

    def __init__(self, *, class_weight: float = 1.0, mask_weight: float = 20.0, dice_weight: float = 1.0):
        self.class_weight, self.mask_weight, self.dice_weight = class_weight, mask_weight, dice_weight

    @torch.no_grad()
    def __call__(self, logits: Tensor, masks: Tensor, targets: Sequence[Targets]) -> Matching:
        """Match all layers and images.

        All costs are copied to the CPU at once, so the CPU waits for the GPU only once.

        Args:
            logits: the class logits (L, N, Q, K + 1).
            masks: the mask logits (L, N, Q, h, w).
            targets: the targets of each image. Their number may be 0 or larger than Q.

        Returns:
            Index tensors on the CPU, with min(Q, T_n) pairs for each layer and image.
        """
        layers, _, queries = logits.shape[:3]
        costs = [self._total(logits[:, n], masks[:, n], t) for n, t in enumerate(targets)]  # (L, Q, T_n) each
        # If half precision has overflowed, the pair is not chosen, and the loss is not finite.
        flat = torch.cat([c.flatten() for c in costs]).nan_to_num(_NO_NUMBER, _NO_NUMBER, -_NO_NUMBER).cpu()
        parts = flat.split([c.numel() for c in costs])
        table = [part.view(layers, queries, -1).numpy() if part.numel() else None for part in parts]
        pairs = [
            (layer, image, query, target)
            for layer in range(layers)
            for image, cost in enumerate(table)
            if cost is not None
            for query, target in zip(*linear_sum_assignment(cost[layer]))
        ]
        return Matching(*torch.tensor(pairs, dtype=torch.long).view(-1, 4).unbind(1))

    def _total(self, logits: Tensor, masks: Tensor, targets: Targets) -> Tensor:
        by_class, by_mask, by_dice = self.costs(logits, masks, targets)
        return self.class_weight * by_class + self.mask_weight * by_mask + self.dice_weight * by_dice

    def costs(self, logits: Tensor, masks: Tensor, targets: Targets) -> tuple[Tensor, Tensor, Tensor]:
        """Unweighted costs of one image: class, focal and dice.

        Args:
            logits: the class logits (L, Q, K + 1).
            masks: the mask logits (L, Q, h, w).
            targets: the targets of the image.

        Returns:
            Three tensors (L, Q, T), in float32 or better.
        """
        with torch.autocast(logits.device.type, enabled=False):
            logits, masks = _precise(logits), _precise(masks)
            by_class = -logits.softmax(dim=-1)[..., targets.labels]
            wanted = F.interpolate(targets.masks[:, None].to(torch.uint8), masks.shape[-2:], mode="nearest")
            wanted = wanted.flatten(1).to(masks.dtype)
            by_layer = [_mask_costs(layer.flatten(1), wanted) for layer in masks]  # the maps of one layer at a time
            return by_class, *(torch.stack(costs) for costs in zip(*by_layer))


def _mask_costs(masks: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (Q, P) and targets (T, P) of P pixels -> focal and dice costs (Q, T)."""
    inside = masks.sigmoid()
    if_inside = FOCAL_ALPHA * (1 - inside) ** FOCAL_GAMMA * F.softplus(-masks)
    if_outside = (1 - FOCAL_ALPHA) * inside**FOCAL_GAMMA * F.softplus(masks)
    # sum of if_inside * t + if_outside * (1 - t)
    focal = ((if_inside - if_outside) @ wanted.T + if_outside.sum(dim=1, keepdim=True)) / masks.shape[1]
    overlap = inside @ wanted.T
    dice = 1 - (2 * overlap + 1) / (inside.sum(dim=1)[:, None] + wanted.sum(dim=1) + 1)
    return focal, dice


def _precise(t: Tensor) -> Tensor:
    return t.to(torch.promote_types(t.dtype, torch.float32))
