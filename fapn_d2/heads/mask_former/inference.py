"""From classified masks to labels of pixels: Cheng et al., NeurIPS 2021, Section 3.4.

Letters: Q queries, K classes, H x W size of an image.
"""

from collections.abc import Collection

import torch
from torch import Tensor


def semantic_scores(logits: Tensor, masks: Tensor) -> Tensor:
    """Class logits (Q, K + 1) and mask logits (Q, H, W) -> (K, H, W), sums of probabilities over queries.

    They are not normalised, and they are not logits, so a softmax must not be applied.
    """
    return torch.einsum("qk,qhw->khw", logits.softmax(dim=-1)[:, :-1], masks.sigmoid())


def panoptic_segments(
    logits: Tensor,
    masks: Tensor,
    *,
    things: Collection[int],
    object_threshold: float = 0.0,
    overlap_threshold: float = 0.0,
) -> tuple[Tensor, list[dict]]:
    """Every pixel belongs to the query with the highest product of score and mask probability.

    Args:
        logits: the class logits (Q, K + 1).
        masks: the mask logits (Q, H, W).
        things: the classes whose segments are separate objects. Segments of any other class are joined.
        object_threshold: queries with a score of at most this are left out.
        overlap_threshold: the smallest fraction of a query's mask (probability of at least 0.5) that must belong to it.

    Returns:
        (H, W) int32 ids, 0 for none, and the segments in the order of ids, each with "id", "isthing" and
        "category_id", a class number.
    """
    num_classes = logits.shape[-1] - 1
    scores, labels = logits.softmax(dim=-1).max(dim=-1)
    kept = (labels != num_classes) & (scores > object_threshold)
    if not kept.any():
        return torch.zeros(masks.shape[-2:], dtype=torch.int32, device=masks.device), []
    inside = masks[kept].sigmoid()
    winner = (scores[kept, None, None] * inside).argmax(dim=0)
    won = winner.flatten().bincount(minlength=len(inside))
    whole = (inside >= 0.5).sum(dim=(1, 2))
    ids, segments, stuff = [], [], {}
    # One transfer for all queries.
    for label, area, original in torch.stack([labels[kept], won, whole], dim=1).tolist():
        if not area or not original or area / original < overlap_threshold:
            ids.append(0)
        elif label in stuff:
            ids.append(stuff[label])
        else:
            ids.append(len(segments) + 1)
            segments.append({"id": ids[-1], "isthing": label in things, "category_id": label})
            if label not in things:
                stuff[label] = ids[-1]
    return torch.tensor(ids, dtype=torch.int32, device=masks.device)[winner], segments
