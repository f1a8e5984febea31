"""Skip a few broken images in a training run instead of ending it."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from .reading import BadImageError

logger = logging.getLogger(__name__)


class SkipBadImages:
    """A mapper that uses another, randomly drawn record where a file is missing or broken.

    Detectron2's ``MapDataset`` also replaces records that a mapper refuses, but it has no limit, and up to 2024 it
    fails in Python 3.11 and later. The broken images are listed in a file that all loader processes of all ranks share,
    so the limit holds for the whole run, also after it is resumed. Delete the file after you have fixed the images.

    Args:
        mapper: record -> sample; raises ``BadImageError`` or ``FileNotFoundError``.
        dataset: the records to draw from.
        limit: number of different images that may be left out.
        log_file: the list of broken images, one line "<image><tab><reason>" for each.
    """

    def __init__(self, mapper: Callable[[dict], dict], dataset: Sequence[dict], *, limit: int, log_file: Path):
        self.mapper, self.dataset, self.limit, self.log_file = mapper, dataset, limit, Path(log_file)

    def __call__(self, record: dict) -> dict:
        """A sample from ``record``, or from another one.

        Raises:
            BadImageError: more than ``limit`` different images are broken, or all of them; names the list.
        """
        while True:
            try:
                return self.mapper(record)
            except (BadImageError, FileNotFoundError) as error:
                self._count(record["file_name"], error)
                record = self.dataset[int(np.random.randint(len(self.dataset)))]

    def _count(self, image: str, error: Exception) -> None:
        listed = self._listed()
        if image not in listed:
            self.log_file.parent.mkdir(parents=True, exist_ok=True)
            reason = " ".join(str(error).split())
            with self.log_file.open("a") as file:  # one short write: lines of several processes do not mix
                file.write(f"{image}\t{reason}\n")
            listed.add(image)
            logger.warning("Left out of training (%d of at most %d): %s", len(listed), self.limit, reason)
        if len(listed) > min(self.limit, len(self.dataset) - 1):
            raise BadImageError(
                f"{len(listed)} images cannot be used, INPUT.MAX_BAD_IMAGES allows {self.limit} of "
                f"{len(self.dataset)}; they are listed in {self.log_file}. The last: {error}"
            ) from error

    def _listed(self) -> set[str]:
        if not self.log_file.is_file():
            return set()
        return {line.split("\t")[0] for line in self.log_file.read_text().splitlines()}
