import numpy as np
import pytest

from fapn_d2.evaluation.run_lengths import count, runs


def test_by_hand():
    lengths, a, b = runs(np.array([[1, 1, 1], [2, 2, 2]]), np.array([[5, 5, 6], [6, 6, 7]], np.uint8))
    assert lengths.tolist() == [2, 1, 2, 1]
    assert a.tolist() == [1, 1, 2, 2] and b.tolist() == [5, 6, 6, 7] and b.dtype == np.uint8
    assert count(a, lengths, 4).tolist() == [0, 3, 3, 0] and count(a, lengths, 4).dtype == np.int64


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (0, 4)])
def test_counts_are_those_of_the_pixels(shape):
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 3, shape), rng.integers(0, 4, (shape[1], shape[0])).T  # not contiguous
    lengths, x, y = runs(a, b)
    assert (count(x * 4 + y, lengths, 12) == np.bincount((a * 4 + b).ravel(), minlength=12)).all()
