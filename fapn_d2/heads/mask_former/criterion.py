"""MaskFormer's losses: Cheng et al., NeurIPS 2021, Section 3.2, with those of DETR's auxiliary layers.

Letters: N images, Q queries, K classes, L layers, P matched pairs, h x w size of the predicted masks, H x W size of the
targets.
"""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ...layers.resize import resize_to
from .matcher import FOCAL_ALPHA, FOCAL_GAMMA, HungarianMatcher, Matching, Targets

#: The number of target pixels that are compared at a time: 16 masks of 640 x 640.
_CHUNK_PIXELS = 16 * 640 * 640


class SetCriterion(nn.Module):
    """Losses of matched queries. Each layer has its own matching.

    ``loss_ce`` is the weighted mean of the cross entropy over all queries; unmatched queries have the target "no
    object". ``loss_mask`` (focal) and ``loss_dice`` are sums over matched pairs at the size of the targets, divided by
    the number of targets per process. The losses of the last layer have these names. Layer i, counted from 0, adds the
    suffix ``_i``.

    Args:
        num_classes: the number of classes K.
        matcher: the matcher that pairs queries with targets.
        no_object_weight: the weight of the class "no object" in the cross entropy.
        class_weight, mask_weight, dice_weight: the factors on the three losses.
        chunk_pixels: the number of target pixels that are compared at a time. The backward pass computes full-size maps
            again, so memory never holds more than this number, for any number of pairs.
    """

    @configurable
    def __init__(
        self,
        num_classes: int,
        *,
        matcher: HungarianMatcher,
        no_object_weight: float = 0.1,
        class_weight: float = 1.0,
        mask_weight: float = 20.0,
        dice_weight: float = 1.0,
        chunk_pixels: int = _CHUNK_PIXELS,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.matcher = matcher
        self.weights = {"loss_ce": class_weight, "loss_mask": mask_weight, "loss_dice": dice_weight}
        self.chunk_pixels = chunk_pixels
        empty_weight = torch.ones(num_classes + 1)
        empty_weight[-1] = no_object_weight
        # Not saved, because the config has it.
        self.register_buffer("empty_weight", empty_weight, persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode, num_classes: int) -> dict:
        node = cfg.MODEL.MASK_FORMER
        weights = {"mask_weight": node.MASK_WEIGHT, "dice_weight": node.DICE_WEIGHT}
        return {
            "num_classes": num_classes,
            "matcher": HungarianMatcher(**weights),
            "no_object_weight": node.NO_OBJECT_WEIGHT,
            **weights,
        }

    def forward(self, logits: Tensor, masks: Tensor, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Weighted losses, in float32 or better.

        Args:
            logits: the class logits (L, N, Q, K + 1).
            masks: the mask logits (L, N, Q, h, w).
            targets: the regions of each image. All masks have the same H x W.
        """
        return {name: self.weights[name.rstrip("_0123456789")] * v for name, v in self.losses(logits, masks, targets)}

    def losses(self, logits: Tensor, masks: Tensor, targets: Sequence[Targets]) -> list[tuple[str, Tensor]]:
        """(name, unweighted loss) of all layers."""
        matching = self.matcher(logits, masks, targets)
        by_kind = {"loss_ce": self._class_losses(logits, matching, targets)}
        by_kind["loss_mask"], by_kind["loss_dice"] = self._mask_losses(masks, matching, targets)
        last = len(logits) - 1
        return [
            (name if layer == last else f"{name}_{layer}", losses[layer])
            for name, losses in by_kind.items()
            for layer in range(last + 1)
        ]

    def _class_losses(self, logits: Tensor, matching: Matching, targets: Sequence[Targets]) -> Tensor:
        """(L,) weighted means of the cross entropy."""
        with torch.autocast(logits.device.type, enabled=False):
            logits = _precise(logits)
            classes = torch.full(logits.shape[:3], self.num_classes, device=logits.device)
            pairs = matching.to(logits.device)
            labels = torch.cat([t.labels for t in targets])
            classes[pairs.layer, pairs.image, pairs.query] = labels[_of_batch(matching, targets).to(logits.device)]
            losses = F.cross_entropy(logits.flatten(0, 2), classes.flatten(), reduction="none").view_as(classes)
            weights = self.empty_weight.to(logits.dtype)[classes]
            return (weights * losses).sum(dim=(1, 2)) / weights.sum(dim=(1, 2))

    def _mask_losses(self, masks: Tensor, matching: Matching, targets: Sequence[Targets]) -> tuple[Tensor, Tensor]:
        """(L,) focal and (L,) dice losses."""
        pairs = matching.to(masks.device)
        # One gathering for all chunks: the gradient of a chunk then has its own size, not the size of all masks.
        predicted = masks[pairs.layer, pairs.image, pairs.query]
        wanted = torch.cat([t.masks for t in targets])
        index = _of_batch(matching, targets).to(masks.device)
        count = max(1, self.chunk_pixels // max(wanted[:1].numel(), 1))
        parts = [
            checkpoint(_pair_losses, p, wanted, i, use_reentrant=False, preserve_rng_state=False)
            for p, i in zip(predicted.split(count), index.split(count))
        ]
        if len(predicted):
            focal, dice = (torch.cat(losses) for losses in zip(*parts))
        else:  # nothing to compare, but every mask stays in the graph, because DistributedDataParallel needs it
            focal = dice = _precise(predicted).sum(dim=(1, 2))
        number = _targets_of_a_process(targets, masks.device)
        zero = focal.new_zeros(len(masks))
        return zero.index_add(0, pairs.layer, focal) / number, zero.index_add(0, pairs.layer, dice) / number


def _pair_losses(masks: Tensor, wanted: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Mask logits (P, h, w), all targets (T, H, W) and the target of each pair (P,) -> (P,) focal and (P,) dice."""
    with torch.autocast(masks.device.type, enabled=False):
        masks = resize_to(_precise(masks)[:, None], wanted.shape[-2:], "bilinear").flatten(1)
        wanted = wanted[index].flatten(1).to(masks.dtype)
        inside = masks.sigmoid()
        entropy = F.binary_cross_entropy_with_logits(masks, wanted, reduction="none")
        overlap = inside * wanted
        wrong = inside + wanted - 2 * overlap  # 1 - p of the true label
        alpha = (1 - FOCAL_ALPHA) + (2 * FOCAL_ALPHA - 1) * wanted
        focal = (alpha * wrong**FOCAL_GAMMA * entropy).mean(dim=1)
        dice = 1 - (2 * overlap.sum(dim=1) + 1) / (inside.sum(dim=1) + wanted.sum(dim=1) + 1)
        return focal, dice


def _of_batch(matching: Matching, targets: Sequence[Targets]) -> Tensor:
    """(P,) index of each pair's target among all targets of the batch, on the CPU."""
    first = torch.tensor([0, *(len(t.labels) for t in targets)]).cumsum(0)
    return first[matching.image] + matching.target


def _targets_of_a_process(targets: Sequence[Targets], device: torch.device) -> Tensor:
    """The number of targets in the batch, averaged over all processes; at least 1."""
    number = torch.tensor(float(sum(len(t.labels) for t in targets)), device=device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(number)
        number = number / torch.distributed.get_world_size()
    return number.clamp(min=1)


def _precise(t: Tensor) -> Tensor:
    return t.to(torch.promote_types(t.dtype, torch.float32))
