"""Counting label maps run by run instead of pixel by pixel.

In a label map most pixels equal their left neighbour. To count values of several maps, it is enough to look once at
each stretch of pixels in which all maps stay the same. There are tens of times fewer stretches than pixels.
"""

import numpy as np


def runs(*maps: np.ndarray) -> tuple[np.ndarray, ...]:
    """Stretches of the flattened maps in which none of them changes.

    Args:
        *maps: arrays of one shape.

    Returns:
        Length of each stretch (int64), and for each map its value in each stretch, in the map's type.
    """
    flat = [np.ascontiguousarray(values).ravel() for values in maps]
    if not flat[0].size:
        return np.zeros(0, np.int64), *flat
    change = flat[0][1:] != flat[0][:-1]
    for values in flat[1:]:
        change |= values[1:] != values[:-1]
    starts = np.concatenate([[0], np.flatnonzero(change) + 1])
    lengths = np.diff(starts, append=flat[0].size)
    return lengths, *(values[starts] for values in flat)


def count(index: np.ndarray, lengths: np.ndarray, size: int) -> np.ndarray:
    """(size,) int64: for each index, the sum of the lengths of its stretches."""
    # sums of whole numbers in float64 are exact up to 2^53 pixels
    return np.bincount(index, weights=lengths, minlength=size).astype(np.int64)
