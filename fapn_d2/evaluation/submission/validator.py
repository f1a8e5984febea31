"""A check of an archive against the rules of its server, without the server."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

from .archive import in_words
from .checks import common
from .checks.coco import check_entries
from .checks.faults import Fault, Report
from .checks.instances import check_instances
from .checks.labels import check_label_images
from .checks.panoptic import check_panoptic
from .checks.submission import ImageList, Submission
from .tasks import Task

#: Family of a task -> the function that checks the content.
FAMILIES: dict[str, Callable[[Submission, Report], None]] = {
    "detections": check_entries,
    "stuff": check_entries,
    "panoptic": check_panoptic,
    "labels": check_label_images,
    "instances": check_instances,
}


def validate(
    path: str | os.PathLike,
    task: Task,
    split: str,
    images: ImageList,
    *,
    newer_than: tuple[float, str] | None = None,
) -> Report:
    """Check an archive. One image, or one chunk of a JSON array, is in memory at a time.

    Args:
        path: the path of the zip.
        task: the task of the archive.
        split: the name of the split in ``task.splits``.
        images: the images that the server scores.
        newer_than: (seconds since 1970, description) of a file. The predictions must not be older than this file.

    Returns:
        A report of all faults; its ``ready`` is True if there are none.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the task has no such split.
    """
    path, report = Path(path), Report()
    if not path.is_file():
        raise FileNotFoundError(f"there is no archive {path}")
    official = task.split(split)
    size = in_words(path.stat().st_size)
    report.facts.append(f"{path.name}: {task.name}, {official.official}, {size}")
    report.facts.append(f"compared with {images.source} ({len(images.records)} images)")
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        fix = "send a .zip; compare its size after copying it"
        report.add([Fault("the file is not a zip, or is cut short", fix, f"{path.name} ({error})")])
        return report
    with archive:
        unpacked = sum(info.file_size for info in archive.infolist())
        report.facts[0] += f" ({in_words(unpacked)} unpacked, {len(archive.infolist())} files)"
        sub = Submission(path, archive, task, official, images, newer_than)
        for check in common.READABLE:
            report.add(check(sub))
        if not report.ready:
            return report
        for check in common.CHECKS:
            report.add(check(sub))
        FAMILIES[task.family](sub, report)
    return report
