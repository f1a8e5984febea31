"""Detections of a one-stage detector as region proposals, for the supervision that AugFPN adds in training.

Legend: N images, A anchors (or points) per level, K classes, B boxes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances


@dataclass(frozen=True)
class ProposalLimits:
    """How many detections become proposals. The defaults are those of the official AugFPN code."""

    pre_nms_topk: int = 2000  #: most anchors per level, by the score of their best class
    score_thresh: float = 0.01  #: lowest score of a class
    nms_thresh: float = 0.7  #: IoU above which NMS removes a box, within each class
    post_nms_topk: int = 1000  #: most proposals per image, over all classes


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

    A box is returned once for each class that it is detected as. Scores are sigmoid(logits). With centerness, boxes are
    ranked by the product of score and centerness, and the threshold holds for the score alone.

    Args:
        anchors: A boxes per level.
        logits, deltas: predictions per level, (N,A,K) and (N,A,4).
        centerness: logits per level, (N,A,1), or None.
        transform: Detectron2's box transform that decodes ``deltas``.
        image_sizes: (height, width) per image, to which boxes are clipped.
        limits: thresholds and numbers of boxes to keep.

    Returns:
        ``proposal_boxes`` and ``objectness_logits`` per image, best first. The latter are logits of the ranking score.
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

    Whether a box is kept depends on better boxes only. So NMS first runs on the best boxes, and on more boxes only if
    too few are kept. At the start of training, when half of all anchors and classes pass the threshold, NMS then runs
    on a hundredth of them.
    """
    order = ranks.argsort(descending=True)
    size = 4 * limits.post_nms_topk
    while True:
        head = order[:size]
        kept = head[batched_nms(boxes[head], ranks[head], labels[head], limits.nms_thresh)[: limits.post_nms_topk]]
        if len(kept) == limits.post_nms_topk or size >= len(order):
            return kept
        size *= 4
