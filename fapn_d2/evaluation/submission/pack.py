"""From a folder of parts to an archive and a description of it in a second file, which the check reads."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from ...files import write_atomically
from .archive import write_archive
from .parts import PartsFolder
from .tasks import Task
from .writer import Limits, Writer

#: Added to the name of an archive.
DESCRIPTION = ".manifest.json"


def manifest(
    task: Task, writer: Writer, records: Sequence[dict], *, config: str = "", weights: str = "", source: str = ""
) -> dict:
    """The origin of predictions, for :meth:`PartsFolder.begin`.

    Args:
        task: the task of the predictions.
        writer: the writer of the parts.
        records: the images.
        config: the hash of the config.
        weights: the hash of the network's parameters.
        source: the kept predictions from which the parts are made.
    """
    return {
        "task": task.name,
        "dataset": writer.dataset_name,
        "images": images_hash(records),
        "config": config,
        "weights": weights,
        "limits": asdict(writer.limits) if isinstance(writer.limits, Limits) else {},
        "source": source,
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def images_hash(records: Sequence[dict]) -> str:
    """12 hexadecimal digits for the ids of the images in their order, and their number."""
    text = "\n".join(str(record["image_id"]) for record in records)
    return f"{hashlib.sha256(text.encode()).hexdigest()[:12]} ({len(records)})"


def pack(
    folder: PartsFolder,
    task: Task,
    split: str,
    algorithm: str,
    records: Sequence[dict],
    output: Path,
    *,
    has_files: bool,
    weights_time: float | None = None,
) -> Path:
    """Write the archive of all parts in ``folder`` under its official name.

    Args:
        folder: the folder with a part for each of ``records``.
        task: the task of the archive.
        split: the name of the split in ``task.splits``.
        algorithm: the algorithm's name, which becomes part of the archive's name.
        records: the images, in the order of the archive.
        output: the folder of the archive.
        has_files: whether parts have files.
        weights_time: the time when the weights were written, in seconds since 1970.

    Returns:
        The path of the archive. ``<archive>.manifest.json`` is in the same folder.

    Raises:
        ValueError: images lack a part, or a part is damaged.
    """
    layout = task.names(split, algorithm)
    path = output / layout.archive
    parts = folder.parts(str(record["image_id"]) for record in records)
    write_archive(path, layout, parts, has_files=has_files)
    described = {
        **(folder.manifest or {}),
        "split": split,
        "algorithm": algorithm,
        "weights_time": weights_time,
        "list": [
            {**{k: r[k] for k in ("image_id", "height", "width") if k in r}, "file_name": Path(r["file_name"]).name}
            for r in records
        ],
    }
    write_atomically(f"{path}{DESCRIPTION}", lambda file: file.write(json.dumps(described).encode()))
    return path


def description(archive: Path) -> dict:
    """The description that :func:`pack` wrote beside an archive; empty if it does not exist or cannot be read."""
    try:
        return json.loads(Path(f"{archive}{DESCRIPTION}").read_text())
    except (OSError, ValueError):
        return {}
