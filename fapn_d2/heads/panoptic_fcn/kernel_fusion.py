"""One kernel per object and per region: PanopticFCN, Section 3.1, "Kernel Fusion"."""

import torch
from torch import Tensor
from torch.nn import functional as F


def fuse_things(
    kernels: Tensor, classes: Tensor, scores: Tensor, *, least_similarity: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Join kernels of one class that are nearly equal. This needs no boxes.

    A kernel belongs to the first kernel of its class, in the given order, whose cosine similarity to it is at least
    ``least_similarity``; often this is the kernel itself. A kernel that belongs to itself stays. It becomes the mean of
    all kernels that belong to it and keeps its class and score. The others are removed, even if the kernel that they
    belong to is removed too.

    Args:
        kernels: the kernels (M,E), highest score first.
        classes, scores: the classes and scores (M,).
        least_similarity: the lowest cosine similarity, from -1 to 1.

    Returns:
        Kernels (R,E), classes (R,) and scores (R,) with R <= M, in the order of the input.
    """
    unit = F.normalize(kernels, dim=1)
    alike = (unit @ unit.T >= least_similarity) & (classes[:, None] == classes)
    numbers = torch.arange(len(kernels), device=kernels.device)
    alike |= numbers[:, None] == numbers  # independent of rounding
    earlier = numbers[:, None] <= numbers
    owners = torch.where(alike & earlier, numbers[:, None], len(kernels)).amin(dim=0) if len(kernels) else numbers
    kept = owners == numbers
    return _means(kernels, owners, len(kernels))[kept], classes[kept], scores[kept]


def fuse_stuff(kernels: Tensor, classes: Tensor, scores: Tensor, *, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Replace all kernels of a class by their mean, and their scores by the mean score.

    Args:
        kernels: the kernels (M,E).
        classes, scores: the classes and scores (M,).
        num_classes: the number of classes S.

    Returns:
        Kernels (R,E), classes (R,) and scores (R,), one for each class that occurs, in the order of class numbers.
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
