"""Generating the data set "shapes" on disk: completely or not at all, by one process at a time."""

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from iopath.common.file_io import file_lock

from .spec import DEFAULT_SIZE, DEFAULT_SPLITS
from .write import verify_split, write_split

logger = logging.getLogger(__name__)


def generate_shapes(
    root: str | os.PathLike,
    *,
    splits: Mapping[str, int] = DEFAULT_SPLITS,
    size: tuple[int, int] = DEFAULT_SIZE,
    seed: int = 0,
) -> Path:
    """Generate the data set into the folder ``root``, which must not exist yet.

    The files are written to a temporary folder beside ``root``, read back and compared, and the folder is renamed at
    the end: a killed run leaves nothing at ``root``. If several processes generate it, the others wait for the first.
    The same arguments give the same bytes (with the same versions of Pillow and OpenCV).

    Args:
        root: folder of the data set, e.g. ``datasets/shapes``.
        splits: number of images of each split.
        size: (H, W) of every image in pixels.
        seed: a non-negative integer.

    Returns:
        ``root``.

    Raises:
        FileExistsError: ``root`` exists.
        ValueError: a split has no images, the seed is negative, or images are too small for objects.
    """
    root = Path(root).absolute()
    _check_arguments(splits, size, seed)
    with _lock(root):
        if root.exists():
            raise FileExistsError(f"{root} exists; remove it to generate the data set shapes anew")
        _generate(root, splits, size, seed)
    return root


def ensure_shapes(root: str | os.PathLike) -> Path:
    """Generate the default data set unless ``root`` exists, whatever it contains."""
    root = Path(root).absolute()
    if root.exists():
        return root
    with _lock(root):
        if not root.exists():  # another process may have generated it while this one waited
            logger.info("The data set shapes is absent from %s: generating it (about 10 s).", root)
            _generate(root, DEFAULT_SPLITS, DEFAULT_SIZE, seed=0)
    return root


def _check_arguments(splits: Mapping[str, int], size: tuple[int, int], seed: int) -> None:
    if not splits or min(splits.values()) < 1:
        raise ValueError(f"every split needs at least one image, got splits={dict(splits)}")
    if min(size) < 48:
        raise ValueError(f"size (H, W) must be at least 48 pixels both ways, got {tuple(size)}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")


def _lock(root: Path):
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        writable = os.access(root.parent, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise PermissionError(
            f"cannot generate the data set shapes: {root.parent} is not a folder that can be written to. Point "
            "DETECTRON2_DATASETS to one that can, or generate the data set elsewhere with datasets/prepare_shapes.py."
        )
    return file_lock(str(root))


def _generate(root: Path, splits: Mapping[str, int], size: tuple[int, int], seed: int) -> None:
    prefix = f".{root.name}-unfinished-"
    for leftover in root.parent.glob(prefix + "*"):  # of killed runs; no other process holds the lock
        shutil.rmtree(leftover)
    unfinished = Path(tempfile.mkdtemp(prefix=prefix, dir=root.parent))
    try:
        for split, number in splits.items():
            write_split(unfinished, split, number=number, size=size, seed=seed)
            verify_split(unfinished, split)
        unfinished.chmod(0o755)  # mkdtemp makes it readable for one user only
        unfinished.rename(root)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
