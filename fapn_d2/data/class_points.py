"""Where each class is in the label images: one point per class and tile, found once and kept in a file.

The file ``class_points_<tile>.jsonl`` has one line per label image: its path, its size in bytes, the time of its last
change, and its points. Lines are added while labels are read, so an interrupted search continues where it stopped. A
label that has changed is read again. Several processes may add lines at the same time; if there are several lines for
one label, the last one counts.
"""

import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from torch.utils.data import DataLoader
from tqdm import tqdm

from .reading import BadImageError, read_labels

logger = logging.getLogger(__name__)

Points = list[list[int]]  #: one [class number, row, column] per point


def points_of(labels: np.ndarray, *, tile: int) -> Points:
    """One point for each value in each tile: the pixel with this value that is nearest to the mean of all such pixels.

    SFNet's code of 2020 uses the mean itself. The pixel there may be of another class, and then a crop around it does
    not always show the class.

    Args:
        labels: (H, W) whole numbers.
        tile: side of the square tiles in pixels; those at the lower and right border may be smaller.

    Returns:
        [value, row, column] of each point, tile by tile from the upper left, ordered by value within a tile.
    """
    points: Points = []
    for top in range(0, labels.shape[0], tile):
        for left in range(0, labels.shape[1], tile):
            part = labels[top : top + tile, left : left + tile]
            order = np.argsort(part, axis=None, kind="stable")
            values, starts = np.unique(part.ravel()[order], return_index=True)
            for value, where in zip(values, np.split(order, starts[1:])):
                rows, columns = np.divmod(where, part.shape[1])
                distance = (rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2
                nearest = int(distance.argmin())
                points.append([int(value), top + int(rows[nearest]), left + int(columns[nearest])])
    return points


def find_points(
    records: Sequence[dict], *, tile: int, folder: str | os.PathLike, num_workers: int = 0, skip_bad: bool = False
) -> list[Points]:
    """The points of the labels of all records, in the order of the records. All processes must call it.

    The main process reads the labels that are not yet in the file in ``folder``, with a progress bar, and sends all
    points to the other processes.

    Args:
        records: the records in Detectron2's format, with "sem_seg_file_name".
        tile: see :func:`points_of`.
        folder: folder of the file with the points.
        num_workers: number of processes that read labels; 0 reads them in this process.
        skip_bad: log labels that cannot be read, and give them no points, instead of raising an error.

    Raises:
        ValueError: a record has no semantic labels; ``tile`` is below 1; a label cannot be read.
        FileNotFoundError: a label does not exist.
    """
    if tile < 1:
        raise ValueError(f"DATALOADER.CLASS_UNIFORM.TILE must be at least one pixel, got {tile}")
    labels = []
    for record in records:
        if "sem_seg_file_name" not in record:
            raise ValueError(
                'DATALOADER.SAMPLER_TRAIN "ClassUniformSampler" needs semantic labels, of which the record of '
                f"{record['file_name']} has none"
            )
        labels.append(record["sem_seg_file_name"])
    outcome: list[Points] | Exception | None = None
    if comm.is_main_process():
        try:
            outcome = _find(labels, tile, Path(folder), num_workers, skip_bad)
        except (ValueError, FileNotFoundError) as error:
            outcome = error
    outcome = comm.all_gather(outcome)[0]
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _find(labels: list[str], tile: int, folder: Path, num_workers: int, skip_bad: bool) -> list[Points]:
    file = folder / f"class_points_{tile}.jsonl"
    known = _read(file)
    stamps = {label: _stamp(label) for label in labels}
    missing = [label for label, stamp in stamps.items() if label not in known or known[label][0] != stamp]
    if missing:
        logger.info("Looking for the classes in %d of %d labels; kept in %s", len(missing), len(stamps), file)
        folder.mkdir(parents=True, exist_ok=True)
        reader = DataLoader(
            _Labels(missing, tile, skip_bad),
            batch_size=None,
            num_workers=num_workers,
            generator=torch.Generator(),  # without it the loader would draw from the random numbers of the run
        )
        interval = 0.5 if sys.stderr.isatty() else 20  # without a terminal, each refresh adds a line to the log
        shown = tqdm(
            reader, "classes in labels", len(missing), unit="label", mininterval=interval, maxinterval=interval
        )
        with open(
            file, "ab", buffering=0
        ) as out:  # unbuffered: each line is one write, so lines of several processes do not mix
            out.write(b"\n")  # ends a line whose writing was interrupted
            for points, label in zip(shown, missing):
                if isinstance(points, str):
                    logger.warning("A label is skipped in the search for classes: %s", points)
                    points = []
                else:
                    out.write(json.dumps([label, stamps[label], points]).encode() + b"\n")
                known[label] = (stamps[label], points)
    return [known[label][1] for label in labels]


def _read(file: Path) -> dict[str, tuple[list[int], Points]]:
    """Label -> (stamp, points), from all complete lines."""
    known = {}
    for line in file.read_text().splitlines() if file.is_file() else ():
        try:
            label, stamp, points = json.loads(line)
        except ValueError:  # the line is empty, or its writing was interrupted
            continue
        known[label] = (stamp, points)
    return known


def _stamp(label: str) -> list[int]:
    """[bytes, nanoseconds of the last change]; [] if there is no file: reading it raises the error."""
    path = PathManager.get_local_path(label)
    if not os.path.isfile(path):
        return []
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


class _Labels:
    """Index -> points of a label, or the message that says why it cannot be read."""

    def __init__(self, paths: list[str], tile: int, skip_bad: bool):
        self._paths, self._tile, self._skip_bad = paths, tile, skip_bad

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Points | str:
        try:
            return points_of(read_labels(self._paths[index]), tile=self._tile)
        except (BadImageError, FileNotFoundError) as error:
            if not self._skip_bad:
                raise
            return str(error)
