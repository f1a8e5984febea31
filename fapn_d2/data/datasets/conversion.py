"""Writing label images for a whole data set, for the programs ``datasets/prepare_*.py``.

The functions show a progress bar, continue after an interruption, and check the written images at the end.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ...files import write_atomically
from ...messages import some
from ..reading import read_labels


@dataclass(frozen=True)
class LabelFile:
    """One label image to write.

    Attributes:
        source: file that the label image is made from.
        target: path of the PNG to write.
        image: picture whose size the label image must have; None if there is no picture.
        extra: other input of the conversion, small and picklable.
    """

    source: Path
    target: Path
    image: Path | None = None
    extra: object = None


def in_parallel(function: Callable, items: Sequence, *, description: str, workers: int = 0) -> list:
    """``[function(item) for item in items]`` with a progress bar, in ``workers`` processes (0: in this process)."""
    bar = partial(tqdm, total=len(items), desc=description, unit="file", disable=not items)
    if workers <= 0 or len(items) < 2:
        return list(bar(map(function, items)))
    with ProcessPoolExecutor(workers) as pool:
        return list(bar(pool.map(function, items, chunksize=max(1, min(16, len(items) // workers)))))


def write_png(path: Path, array: np.ndarray) -> None:
    """Save a PNG so that the file is either complete or does not exist."""
    write_atomically(path, lambda file: Image.fromarray(array).save(file, format="PNG"), flush=False)


def write_labels(
    files: Sequence[LabelFile], convert: Callable[[LabelFile], np.ndarray], *, description: str, workers: int = 0
) -> int:
    """Write those of ``files`` that do not exist yet, so that an interrupted run continues where it stopped.

    Args:
        files: the label images to write.
        convert: function from a label file to (H, W) uint8 classes. It must be defined at the top level of a module,
            because it is sent to other processes.
        description: text beside the progress bar.
        workers: number of processes; 0 for this process.

    Returns:
        The number of files written.

    Raises:
        FileNotFoundError: sources do not exist; the message counts them and names the first few. No file is written.
        ValueError: a source cannot be converted; the message names it.
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
    """Read every label image and check it.

    Raises:
        FileNotFoundError: a label image does not exist.
        ValueError: a label image cannot be read, has another size than its image, or holds values other than
            0..num_classes-1 and ``ignore_label``. The message names the first few and ends in ``fix``.
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
