"""Predictions of many processes in one folder that can be interrupted and continued.

Each process of each start appends to a file of its own, ``<start>-<rank>.shard``. For every image this file has a line
of JSON (image, length of its entries, names and lengths of its files, checksum), then the entries and the files. If a
shard is cut short, only its last image is lost. ``manifest.json`` describes the origin of the predictions. A folder
with another manifest is refused, so predictions of different checkpoints, configs or lists never mix.
"""

import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from ...files import write_atomically
from ...messages import some
from .writer import Part

MANIFEST = "manifest.json"
#: Fields of the manifest that must be equal in the folder and in predictions that are added -> their names in messages.
IDENTITY = {
    "task": "the task",
    "dataset": "the data set",
    "images": "the list of images",
    "config": "the config",
    "weights": "the weights",
    "limits": "TEST.SUBMISSION",
    "source": "the kept predictions",
}


class Place(NamedTuple):
    """The place of a part: its shard, the first byte after its line, and the line's content."""

    shard: Path
    offset: int
    head: dict


class PartsFolder:
    """A folder with shards and their manifest.

    Args:
        folder: the folder, which is created when predictions are written.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)

    @property
    def manifest(self) -> dict | None:
        """The origin of the predictions; None if there are no predictions yet.

        Raises:
            ValueError: the manifest is damaged.
        """
        path = self.folder / MANIFEST
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}); remove {self.folder} and start again") from error

    def begin(self, manifest: dict, *, restart: bool = False) -> None:
        """Make the folder ready for parts of ``manifest``. One process calls this before the others write.

        Args:
            manifest: a dict with the keys of :data:`IDENTITY`; it may have others.
            restart: whether to remove the parts of an earlier start instead of continuing it.

        Raises:
            ValueError: the folder has predictions of another origin. The message names the differences and a fix.
        """
        found = None if restart else self.manifest
        if found is not None:
            differ = [what for key, what in IDENTITY.items() if found.get(key) != manifest.get(key)]
            if differ:
                raise ValueError(
                    f"{self.folder} holds predictions of an earlier run, from which {', '.join(differ)} "
                    f"differ{'s' if len(differ) == 1 else ''}. Name another folder, or remove the old predictions by "
                    "--restart"
                )
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for shard in self._shards():
            shard.unlink()
        write_atomically(str(self.folder / MANIFEST), lambda file: file.write(json.dumps(manifest, indent=1).encode()))

    def _shards(self) -> list[Path]:
        return sorted(self.folder.glob("*.shard"))

    @contextmanager
    def appending(self, rank: int = 0) -> Iterator["PartsFile"]:
        """A new shard for this process, to be used in a ``with`` block."""
        number = 0
        while True:
            try:
                file = open(self.folder / f"{number:03d}-{rank:05d}.shard", "xb")  # noqa: SIM115 (closed below)
                break
            except FileExistsError:
                number += 1
        try:
            yield PartsFile(file)
        finally:
            file.flush()
            os.fsync(file.fileno())
            file.close()

    def index(self) -> dict[str, Place]:
        """Image -> the place of its part, over all shards; the first place if there are several. Reads no part."""
        found: dict[str, Place] = {}
        for shard in self._shards():
            with open(shard, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                while line := file.readline():
                    try:
                        head = json.loads(line)
                        end = file.tell() + head["json"] + sum(length for _, length in head["files"])
                    except (ValueError, KeyError, TypeError):
                        break  # the shard ends in the line
                    if end + 1 > size:
                        break  # the shard ends after the line
                    found.setdefault(head["image"], Place(shard, file.tell(), head))
                    file.seek(end + 1)
        return found

    @staticmethod
    def read(place: Place) -> Part:
        """The part at a place of :meth:`index`.

        Raises:
            ValueError: the shard changed or is damaged.
        """
        with open(place.shard, "rb") as file:
            file.seek(place.offset)
            body = file.read(place.head["json"] + sum(length for _, length in place.head["files"]))
        if zlib.crc32(body) != place.head["crc"]:
            raise ValueError(f"{place.shard} is damaged at image {place.head['image']}: remove it and continue the run")
        entries, position = tuple(json.loads(body[: place.head["json"]])), place.head["json"]
        files = []
        for name, length in place.head["files"]:
            files.append((name, body[position : position + length]))
            position += length
        return Part(place.head["image"], entries, tuple(files))

    def parts(self, images: Iterable[str]) -> "PartsInOrder":
        """The parts of ``images`` in this order, read one by one during each iteration.

        Raises:
            ValueError: images have no part. The message has their number and the first names.
        """
        images, index = list(images), self.index()
        if missing := [image for image in images if image not in index]:
            raise ValueError(
                f"{len(missing)} of {len(images)} images have no prediction in {self.folder} ({some(missing)}); call "
                "the command again to continue. On several machines the folder must be on a disk that all of them share"
            )
        return PartsInOrder(self, [index[image] for image in images])


class PartsInOrder:
    """Parts that are read while they are iterated, any number of times."""

    def __init__(self, folder: PartsFolder, places: list[Place]):
        self._folder, self._places = folder, places

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Part]:
        return map(self._folder.read, self._places)


class PartsFile:
    """A shard that is open for appending."""

    def __init__(self, file: IO[bytes]):
        self._file = file

    def add(self, part: Part) -> None:
        """Append a part, and hand it to the operating system."""
        entries = json.dumps(part.entries, separators=(",", ":"), allow_nan=False).encode()
        body = b"".join([entries, *(content for _, content in part.files)])
        head = {
            "image": part.image,
            "json": len(entries),
            "files": [[name, len(content)] for name, content in part.files],
            "crc": zlib.crc32(body),
        }
        self._file.write(json.dumps(head).encode() + b"\n" + body + b"\n")
        self._file.flush()
