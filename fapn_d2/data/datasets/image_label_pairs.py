"""Images and the label files that belong to them by name."""

import os
from pathlib import Path

from ...messages import some

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
LABEL_SUFFIXES = (".png",)


def stems(folder: str | os.PathLike, suffixes: tuple[str, ...], *, fix: str, what: str = "files") -> dict[str, Path]:
    """Stem -> path of the files in ``folder`` that end in one of ``suffixes`` (any case).

    A suffix may be longer than an extension. With ``_leftImg8bit.png``, the stem is the part of the name before it.

    Raises:
        FileNotFoundError: the folder does not exist or holds no such file; the message ends in ``fix``.
        ValueError: two files have the same stem.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"folder {folder} is absent; expected {what} ({', '.join(suffixes)}) in it. {fix}")
    found: dict[str, Path] = {}
    for entry in os.scandir(folder):
        suffix = next((s for s in suffixes if entry.name.lower().endswith(s.lower())), None)
        if suffix is None:
            continue
        stem = entry.name[: -len(suffix)]
        if stem in found:
            raise ValueError(f"{folder} holds both {found[stem].name} and {entry.name}; keep one of them")
        found[stem] = folder / entry.name
    if not found:
        raise FileNotFoundError(f"folder {folder} holds no {what} ({', '.join(suffixes)}). {fix}")
    return found


def pair_files(
    image_root: str | os.PathLike,
    label_root: str | os.PathLike,
    *,
    fix: str,
    image_suffixes: tuple[str, ...] = IMAGE_SUFFIXES,
    label_suffixes: tuple[str, ...] = LABEL_SUFFIXES,
) -> list[tuple[Path, Path]]:
    """(image, label) for each stem, sorted. Every image must have a label and every label an image.

    Detectron2's own loader uses the files that both folders have, and only warns. With it, a data set that is only half
    copied trains on half of the images.

    Raises:
        FileNotFoundError: see :func:`stems`; or there are images without labels or labels without images. The message
            counts them, names the first few, and ends in ``fix``.
    """
    images = stems(image_root, image_suffixes, fix=fix, what="images")
    labels = stems(label_root, label_suffixes, fix=fix, what="labels")
    if not images.keys() & labels.keys():
        raise FileNotFoundError(
            f"no image in {image_root} has a label of the same name in {label_root}: images are named "
            f"{some(images)}, labels {some(labels)}. {fix}"
        )
    problems = []
    if alone := images.keys() - labels.keys():
        problems.append(f"{len(alone)} of {len(images)} images in {image_root} have no label ({some(alone)})")
    if alone := labels.keys() - images.keys():
        problems.append(f"{len(alone)} of {len(labels)} labels in {label_root} have no image ({some(alone)})")
    if problems:
        raise FileNotFoundError(f"{'; '.join(problems)}. {fix}")
    return [(images[stem], labels[stem]) for stem in sorted(images)]
