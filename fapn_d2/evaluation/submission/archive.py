"""From parts to the zip that a server accepts."""

import json
import os
import time
import zipfile
from collections.abc import Iterable, Sized
from dataclasses import dataclass

from tqdm import tqdm

from ...files import write_atomically
from .writer import Part

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Layout:
    """Names in an archive.

    Attributes:
        archive: file name of the zip.
        json: the JSON file at its root; "": there is none.
        array: whether the JSON is an array of entries; else an object with "annotations".
        folder: the folder of the images' files, ending in "/"; "": the root.
    """

    archive: str
    json: str = ""
    array: bool = True
    folder: str = ""


def write_archive(path: str | os.PathLike, layout: Layout, parts: Iterable[Part], *, has_files: bool) -> int:
    """Write the zip beside ``path``, then rename it. One part is in memory at a time.

    Args:
        path: the zip to write.
        layout: the names in the zip.
        parts: the parts, which are iterated once for files and once for JSON.
        has_files: whether parts have files.

    Returns:
        Size of the zip in bytes.
    """

    def write(file) -> None:
        with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
            if has_files:
                for part in _bar(parts, "files"):
                    for name, content in part.files:
                        archive.writestr(_member(layout.folder + name), content)
            if layout.json:
                with archive.open(_member(layout.json), "w", force_zip64=True) as member:
                    _write_json(member, layout.array, _bar(parts, "JSON"))

    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    write_atomically(str(path), write)
    return os.path.getsize(path)


def _bar(parts: Iterable[Part], what: str) -> Iterable[Part]:
    total = len(parts) if isinstance(parts, Sized) else None
    return tqdm(parts, total=total, desc=f"writing {what}", unit="image", delay=2)


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, time.localtime()[:6])
    # PNGs are compressed already
    info.compress_type = zipfile.ZIP_STORED if name.endswith(".png") else zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    return info


def _write_json(member, array: bool, parts: Iterable[Part]) -> None:
    member.write(b"[" if array else b'{"annotations":[')
    waiting, size, first = [], 0, True
    for part in parts:
        for entry in part.entries:
            text = json.dumps(entry, separators=(",", ":"), allow_nan=False)
            waiting.append(text if first else "," + text)
            size, first = size + len(text), False
        if size > _CHUNK:
            member.write("".join(waiting).encode())
            waiting, size = [], 0
    member.write(("".join(waiting) + ("]" if array else "]}")).encode())


def in_words(size: float) -> str:
    """A number of bytes for people: "3.1 MB"."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
