"""One kernel per object and per region: PanopticFCN, Section 3.1, "Kernel Fusion"."""

import torch
from torch import Tensor
from torch.nn import functional as F


def fuse_things(
    kernels: Tensor, classes: Tensor, scores: Tensor, *, least_similarity: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Join kernels of one class that are nearly the same; no box is needed for that.

    A kernel belongs to the first kernel of its class, in the given order, whose cosine similarity to it is at least
    ``least_similarity``; often this is itself. A kernel that belongs to itself stays, as the mean of all kernels that
    belong to it, with its own class and score. The others go, also where the kernel that they belong to has gone.

    Args:
        kernels: (M,E), from the best score to the worst.
        classes, scores: (M,).
        least_similarity: -1 to 1.

    Returns:
        (R,E), (R,), (R,) with R <= M, in the order of the input.
    """
    unit = F.normalize(kernels, dim=1)
    alike = (unit @ unit.T >= least_similarity) & (classes[:, None] == classes)
    numbers = torch.arange(len(kernels), device=kernels.device)
    alike |= numbers[:, None] == numbers  # whatever rounding says
    earlier = numbers[:, None] <= numbers
    owners = torch.where(alike & earlier, numbers[:, None], len(kernels)).amin(dim=0) if len(kernels) else numbers
    kept = owners == numbers
    return _means(kernels, owners, len(kernels))[kept], classes[kept], scores[kept]


def fuse_stuff(kernels: Tensor, classes: Tensor, scores: Tensor, *, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Join all kernels of a class by their mean; their scores too.

    Args:
        kernels: (M,E).
        classes, scores: (M,).
        num_classes: S.

    Returns:
        (R,E), (R,), (R,), one for each class that is there, in the order of class numbers.
    """
    there = torch.zeros(num_classes, dtype=torch.bool, device=classes.device)
    there[classes] = True
    found = there.nonzero()[:, 0]
    return (
        _means(kernels, classes, num_classes)[found],
        found,
        _means(scores[:, None], classes, num_classes)[found, 0],
    )


def _means(values: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """(M,D), (M,) -> (num_groups, D): means of the members of each group, 0 for an empty group."""
    member = (groups[None] == torch.arange(num_groups, device=groups.device)[:, None]).to(values.dtype)
    return (member @ values) / member.sum(dim=1, keepdim=True).clamp(min=1)
