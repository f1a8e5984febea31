"""Writing label images for a whole data set: with a bar, restartable, and read back at the end.

What the programs ``datasets/prepare_*.py`` have in common.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ...messages import some
from ..reading import read_labels


@dataclass(frozen=True)
class LabelFile:
    """One label image to be written.

    Attributes:
        source: what it is made from.
        target: where it goes, a PNG.
        image: a picture that must have its size; None: there is none.
        extra: what else the conversion needs, small and picklable.
    """

    source: Path
    target: Path
    image: Path | None = None
    extra: object = None


def in_parallel(function: Callable, items: Sequence, *, description: str, workers: int = 0) -> list:
    """``[function(item) for item in items]`` with a bar, in ``workers`` processes (0: in this one)."""
    bar = partial(tqdm, total=len(items), desc=description, unit="file", disable=not items)
    if workers <= 0 or len(items) < 2:
        return list(bar(map(function, items)))
    with ProcessPoolExecutor(workers) as pool:
        return list(bar(pool.map(function, items, chunksize=max(1, min(16, len(items) // workers)))))


def write_png(path: Path, array: np.ndarray) -> None:
    """Save such that the file is there whole or not at all."""
    unfinished = path.with_name(path.name + ".unfinished")
    Image.fromarray(array).save(unfinished, format="PNG")
    os.replace(unfinished, path)


def write_labels(
    files: Sequence[LabelFile], convert: Callable[[LabelFile], np.ndarray], *, description: str, workers: int = 0
) -> int:
    """Write those of ``files`` that are not there yet; a run that was stopped continues where it was.

    Args:
        files: what to write.
        convert: file -> (H, W) uint8; a function of a module, for it is sent to other processes.
        description: shown beside the bar.
        workers: processes.

    Returns:
        How many were written.

    Raises:
        FileNotFoundError: sources are absent, counted and the first few named; nothing is written then.
        ValueError: a source cannot be converted; names it.
    """
    missing = [file for file in files if not file.target.exists()]
    if absent := [file.source for file in missing if not file.source.is_file()]:
        raise FileNotFoundError(f"{len(absent)} of {len(files)} files to convert are absent ({some(absent)})")
    for folder in {file.target.parent for file in missing}:
        folder.mkdir(parents=True, exist_ok=True)
    in_parallel(partial(_write, convert), missing, description=description, workers=workers)
    return len(missing)


def _write(convert: Callable[[LabelFile], np.ndarray], file: LabelFile) -> None:
    try:
        labels = convert(file)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{file.source} cannot be converted: {type(error).__name__}: {error}") from error
    write_png(file.target, labels)


def verify_labels(
    files: Sequence[LabelFile],
    *,
    num_classes: int,
    ignore_label: int | None,
    description: str,
    fix: str = "Remove them and run this program again.",
    workers: int = 0,
) -> None:
    """Read every label image back.

    Raises:
        FileNotFoundError: one is absent.
        ValueError: one cannot be read, has another size than its image, or values other than 0..num_classes-1 and
            ``ignore_label``; names it; the message ends in ``fix``.
    """
    check = partial(_verify, num_classes, ignore_label)
    problems = [p for p in in_parallel(check, files, description=description, workers=workers) if p]
    if problems:
        raise ValueError(f"{len(problems)} of {len(files)} label images are wrong: {'; '.join(problems[:3])}. {fix}")


def _verify(num_classes: int, ignore_label: int | None, file: LabelFile) -> str | None:
    try:
        labels = read_labels(str(file.target))
    except ValueError as error:
        return str(error)
    wrong = [int(v) for v in np.unique(labels) if v >= num_classes and v != ignore_label]
    if wrong:
        void = "" if ignore_label is None else f" and {ignore_label}"
        return f"{file.target} holds {wrong[:5]}; allowed are 0..{num_classes - 1}{void}"
    if file.image is not None:
        with Image.open(file.image) as image:
            if image.size[::-1] != labels.shape:
                return f"{file.target} is {labels.shape}, its image {file.image} {image.size[::-1]} (H, W)"
    return None
