"""Random numbers that depend on (seed, place) alone, so that nothing has to be stored to continue a run.

The augmentation of a sample depends on its place in the order of training, the random choices inside the network on
iteration and rank. A run that is interrupted and continued, or that uses another number of loader workers, draws what
it would have drawn.
"""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def seed_generators(*place: int) -> None:
    """Seed Python's, numpy's and torch's (all devices') generators from integers that are not negative."""
    words = [int(word) for word in np.random.SeedSequence(place).generate_state(3)]
    random.seed(words[0])
    np.random.seed(words[1])
    torch.manual_seed(words[2])


@contextlib.contextmanager
def seeded(*place: int) -> Iterator[None]:
    """As :func:`seed_generators` for the CPU's generators, which afterwards are where they were."""
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
