"""Class-uniform sampling: each class is shown equally often, as in SFNet's code of 2020.

Indices 0 to n - 1 are the n images. Indices from n on are points in images (class_points.py): the record of a point has
the key "class_point", and its crop must contain the point (cropping.py).
"""

import itertools
import logging
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from detectron2.utils import comm
from torch.utils.data import Dataset, Sampler

from .class_points import Points

logger = logging.getLogger(__name__)

SAMPLER_NAME = "ClassUniformSampler"


class RecordsWithPoints(Dataset):
    """The records of a data set, followed by one record per point.

    Args:
        records: the n records of the data set.
        points: the points of each record's label.
        num_classes: number of classes; points with other values (unlabelled pixels) are left out.
        ignore_value: points with this value are left out as well.
    """

    def __init__(self, records: Sequence[dict], points: Sequence[Points], *, num_classes: int, ignore_value: int):
        rows = [
            (index, *point)
            for index, found in enumerate(points)
            for point in found
            if 0 <= point[0] < num_classes and point[0] != ignore_value
        ]
        self._records = records
        #: (points, 4): index of the record, class, row, column. It is an array because workers can share its memory.
        self._points = np.array(rows, dtype=np.int64).reshape(-1, 4)

    def __len__(self) -> int:
        return len(self._records) + len(self._points)

    def __getitem__(self, index: int) -> dict:
        """A record. The record of a point has "class_point": (row, column) of a pixel in the image as stored."""
        if index < len(self._records):
            return self._records[index]
        record, _, row, column = self._points[index - len(self._records)].tolist()
        return {**self._records[record], "class_point": (row, column)}

    @property
    def num_images(self) -> int:
        """The number n of images."""
        return len(self._records)

    @property
    def classes(self) -> np.ndarray:
        """(points,) class of each point, in the order of the indices from n on."""
        return self._points[:, 1]


class ClassUniformSampler(Sampler):
    """Endless indices of images and points for this rank. All ranks share one order, which depends on the seed alone.

    Points come in rounds. A round has one point of each class that occurs, mixed with as many images as ``fraction``
    asks for. All points of a class are used before one is repeated, and so are all images; their order changes each
    time.

    Args:
        num_images: the number n of images; indices below n are images.
        classes: class of each point; the points have the indices from n on.
        fraction: fraction of the indices that are points, in (0, 1].
        seed: seed of the order, the same on all ranks; None draws a random one that all ranks share.

    Raises:
        ValueError: ``fraction`` is out of range, or there are no points.
    """

    def __init__(self, num_images: int, classes: Sequence[int], *, fraction: float = 0.5, seed: int | None = None):
        if not 0 < fraction <= 1:
            raise ValueError(
                f"DATALOADER.CLASS_UNIFORM.FRACTION must be above 0 and at most 1, got {fraction}; for images alone "
                'set DATALOADER.SAMPLER_TRAIN "TrainingSampler"'
            )
        classes = np.asarray(classes, np.int64)
        if not len(classes):
            raise ValueError(f'DATALOADER.SAMPLER_TRAIN "{SAMPLER_NAME}" found no labelled pixel in the training data')
        self._points_of = {int(c): num_images + np.flatnonzero(classes == c) for c in np.unique(classes)}
        # A checkpoint stores the attributes that are numbers. All but the seed tell whether the data changed.
        self._num_images = num_images
        self._fraction = float(fraction)
        self._data = zlib.crc32(classes.tobytes())
        self._seed = int(comm.shared_random_seed() if seed is None else seed)
        self._rank, self._world_size = comm.get_rank(), comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        yield from itertools.islice(self._all_ranks(), self._rank, None, self._world_size)

    def _all_ranks(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(self._seed)
        images = _shuffled(np.arange(self._num_images), generator)
        points = [_shuffled(indices, generator) for indices in self._points_of.values()]
        images_a_round = len(points) * (1 - self._fraction) / self._fraction
        owed = 0.0
        while True:
            owed += images_a_round
            indices = [next(of_class) for of_class in points]
            # The tolerance keeps rounding errors from delaying an image that several rounds have summed up to.
            whole = int(owed + 1e-6)
            owed -= whole
            indices += itertools.islice(images, whole)
            yield from (indices[i] for i in torch.randperm(len(indices), generator=generator).tolist())


def log_classes(classes: np.ndarray, num_classes: int) -> None:
    """Log how many points each class has, and which classes have none."""
    counts = np.bincount(classes, minlength=num_classes)
    logger.info("Class-uniform sampling: points of classes 0 to %d: %s", num_classes - 1, counts.tolist())
    if absent := np.flatnonzero(counts == 0).tolist():
        logger.warning(
            "The training labels have no pixel of the classes %s; the other classes are shown more often instead.",
            absent,
        )


def _shuffled(indices: np.ndarray, generator: torch.Generator) -> Iterator[int]:
    while True:
        yield from indices[torch.randperm(len(indices), generator=generator).numpy()].tolist()
