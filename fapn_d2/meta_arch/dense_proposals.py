"""Detections of a one-stage detector as region proposals, for the supervision that AugFPN adds in training.

Legend: N images, A anchors (points) of a level, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances


@dataclass(frozen=True)
class ProposalLimits:
    """How many detections become proposals; numbers of the official AugFPN code."""

    pre_nms_topk: int = 2000  #: anchors of a level, by their best class
    score_thresh: float = 0.01  #: least score of a class
    nms_thresh: float = 0.7  #: IoU, class by class
    post_nms_topk: int = 1000  #: proposals of an image, over all classes


@torch.no_grad()
def dense_proposals(
    anchors: Sequence[Boxes],
    logits: Sequence[torch.Tensor],
    deltas: Sequence[torch.Tensor],
    centerness: Sequence[torch.Tensor] | None,
    *,
    transform,
    image_sizes: Sequence[tuple[int, int]],
    limits: ProposalLimits,
) -> list[Instances]:
    """Decode a dense head's predictions, level by level, and suppress duplicates.

    A box comes out once for each class that it is detected as. Scores are sigmoid(logits); with centerness, ranking is
    by their product, the threshold still by the class score.

    Args:
        anchors: of each level, A boxes.
        logits, deltas: of each level, (N,A,K) and (N,A,4).
        centerness: of each level, (N,A,1) logits, or None.
        transform: Detectron2's box transform that decodes ``deltas``.
        image_sizes: (height, width) of each image, to which boxes are clipped.
        limits: numbers to keep.

    Returns:
        For each image, ``proposal_boxes`` and ``objectness_logits`` (of the score that ranked them), best first.
    """
    proposals = []
    for i, size in enumerate(image_sizes):
        boxes, scores, ranks = [], [], []
        for level, level_anchors in enumerate(anchors):
            score = logits[level][i].float().sigmoid()
            rank = score if centerness is None else score * centerness[level][i].float().sigmoid()
            kept = rank.amax(dim=1).topk(min(limits.pre_nms_topk, len(rank))).indices
            boxes.append(transform.apply_deltas(deltas[level][i][kept].float(), level_anchors.tensor[kept]))
            scores.append(score[kept])
            ranks.append(rank[kept])
        proposals.append(_suppress(torch.cat(boxes), torch.cat(scores), torch.cat(ranks), size, limits))
    return proposals


def _suppress(boxes, scores, ranks, size: tuple[int, int], limits: ProposalLimits) -> Instances:
    """Boxes (B,4), scores and ranks (B,K) of one image -> its proposals."""
    clipped = Boxes(boxes)
    clipped.clip(size)
    detected = (scores > limits.score_thresh) & clipped.nonempty()[:, None]
    box, label = detected.nonzero(as_tuple=True)
    boxes, ranks = clipped.tensor[box], ranks[box, label]
    kept = _best_after_nms(boxes, ranks, label, limits)
    return Instances(size, proposal_boxes=Boxes(boxes[kept]), objectness_logits=ranks[kept].logit(eps=1e-6))


def _best_after_nms(boxes, ranks, labels, limits: ProposalLimits) -> torch.Tensor:
    """Indices of the ``post_nms_topk`` best boxes that class-wise suppression leaves, best first.

    Whether a box stays depends on better boxes only. So the best are suppressed first, and more only as long as too few
    stay: at the start of training, when half of all anchors and classes pass the threshold, that is a hundredth.
    """
    order = ranks.argsort(descending=True)
    size = 4 * limits.post_nms_topk
    while True:
        head = order[:size]
        kept = head[batched_nms(boxes[head], ranks[head], labels[head], limits.nms_thresh)[: limits.post_nms_topk]]
        if len(kept) == limits.post_nms_topk or size >= len(order):
            return kept
        size *= 4
