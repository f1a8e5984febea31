"""Data sets whose splits are text files that list the names of their images and labels."""

import os
from pathlib import Path

from ...messages import some
from .image_label_pairs import LABEL_SUFFIXES, stems


def read_list(list_file: str | os.PathLike, *, fix: str) -> list[str]:
    """The names in a text file with one name per line, in order.

    Raises:
        FileNotFoundError: the file does not exist; the message ends in ``fix``.
        ValueError: the file is empty or holds a name twice.
    """
    path = Path(list_file)
    if not path.is_file():
        raise FileNotFoundError(f"the list {path} is absent. {fix}")
    names = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    if not names:
        raise ValueError(f"the list {path} is empty. {fix}")
    if len(set(names)) < len(names):
        twice = {name for name in names if names.count(name) > 1}
        raise ValueError(f"the list {path} holds {len(twice)} names twice ({some(twice)}). {fix}")
    return names


def load_listed(
    list_file: str | os.PathLike,
    image_root: str | os.PathLike,
    label_root: str | os.PathLike,
    *,
    fix: str,
    image_suffixes: tuple[str, ...] = (".jpg",),
    label_suffixes: tuple[str, ...] = LABEL_SUFFIXES,
) -> list[dict]:
    """Records ``{"file_name", "sem_seg_file_name"}`` of the listed names, in the order of the list.

    Raises:
        FileNotFoundError: the list, a folder, or a listed file does not exist. The message counts the missing files,
            names the first few, and ends in ``fix``.
        ValueError: see :func:`read_list`.
    """
    names = read_list(list_file, fix=fix)
    images = stems(image_root, image_suffixes, fix=fix, what="images")
    labels = stems(label_root, label_suffixes, fix=fix, what="labels")
    problems = []
    for what, found, folder in (("images", images, image_root), ("labels", labels, label_root)):
        if missing := [name for name in names if name not in found]:
            problems.append(
                f"{len(missing)} of {len(names)} {what} in {list_file} are not in {folder} ({some(missing)})"
            )
    if problems:
        raise FileNotFoundError(f"{'; '.join(problems)}. {fix}")
    return [{"file_name": str(images[name]), "sem_seg_file_name": str(labels[name])} for name in names]
