"""Random numbers that depend only on (seed, place), so that a continued run needs no stored generator states.

The augmentation of a sample depends on the position of the sample in the order of training. The random choices inside
the network depend on the iteration and the rank. So a run draws the same numbers if it is interrupted and continued, or
if it uses another number of loader workers.
"""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def seed_generators(*place: int) -> None:
    """Seed the generators of Python, NumPy and PyTorch (on all devices) from integers that are not negative."""
    words = [int(word) for word in np.random.SeedSequence(place).generate_state(3)]
    random.seed(words[0])
    np.random.seed(words[1])
    torch.manual_seed(words[2])


@contextlib.contextmanager
def seeded(*place: int) -> Iterator[None]:
    """Like :func:`seed_generators`, for the generators of the CPU. Their states are restored at the end."""
    words = [int(word) for word in np.random.SeedSequence(place).generate_state(3)]
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    try:
        random.seed(words[0])
        np.random.seed(words[1])
        torch.default_generator.manual_seed(words[2])
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.random.set_rng_state(states[2])
