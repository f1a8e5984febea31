"""Gathering the counts of all processes, without a shared disk."""

import numpy as np
from detectron2.utils import comm


def sum_over_processes(counts: np.ndarray) -> np.ndarray:
    """Element-wise sum of an array that every process holds in the same shape; every process gets the sum."""
    return np.sum(comm.all_gather(counts), axis=0, dtype=counts.dtype)


def concatenate_over_processes(rows: list) -> list:
    """The lists of all processes, one after the other in the order of their ranks; every process gets the whole."""
    return [row for part in comm.all_gather(rows) for row in part]


def require_every_image(seen: list[str], expected: list[str], what: str) -> None:
    """Check that each image was predicted once, because a score of a part of the images is not that of the data set.

    Raises:
        ValueError: images of ``expected`` are missing in ``seen``, or ``seen`` holds an image twice or an unknown one.
            The message counts them and names the first three of each kind.
    """
    known = set(expected)
    counts: dict[str, int] = {}
    for name in seen:
        counts[name] = counts.get(name, 0) + 1
    problems = [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in (
            ("without prediction", sorted(known - counts.keys())),
            ("predicted more than once", sorted(n for n, c in counts.items() if c > 1)),
            ("that the ground truth does not have", sorted(counts.keys() - known)),
        )
        if names
    ]
    if problems:
        raise ValueError(f"{what}: of {len(expected)} images there are {'; '.join(problems)}. Evaluate each once.")
