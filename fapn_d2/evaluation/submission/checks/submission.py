"""An archive that is checked, and the list of images that it is compared with."""

import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from PIL import Image
from tqdm import tqdm

from ..tasks import Split, Task

#: What unpacking on a Mac or on Windows leaves in archives.
CLUTTER = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class ImageList:
    """The images that a server scores.

    Attributes:
        records: the records with "image_id", "file_name" and perhaps "height" and "width".
        source: the name of the list in messages.
        complete: whether the list should be the server's whole split.
    """

    records: list[dict]
    source: str
    complete: bool = True

    @cached_property
    def by_id(self) -> dict:
        """Image id -> record."""
        return {record["image_id"]: record for record in self.records}

    @cached_property
    def by_stem(self) -> dict[str, dict]:
        """Stem of the file -> record."""
        return {Path(record["file_name"]).stem: record for record in self.records}

    def size(self, record: dict) -> tuple[int, int] | None:
        """(H, W) of an image, from the list or from the file's header; None if neither exists."""
        if "height" in record:
            return record["height"], record["width"]
        if not Path(record["file_name"]).is_file():
            return None
        with Image.open(record["file_name"]) as image:
            record["width"], record["height"] = image.size
        return record["height"], record["width"]


@dataclass
class Submission:
    """An archive that could be opened.

    Attributes:
        path: the path of the zip.
        zip: the open zip.
        task: the task of the archive.
        split: the split of the archive.
        images: the images of the split.
        newer_than: (seconds since 1970, description) of the weights; None: not known.
    """

    path: Path
    zip: zipfile.ZipFile
    task: Task
    split: Split
    images: ImageList
    newer_than: tuple[float, str] | None = None

    @cached_property
    def members(self) -> list[str]:
        """Names of all files but clutter, as they are in the zip."""
        names = (info.filename for info in self.zip.infolist() if not info.is_dir())
        return [name for name in names if not is_clutter(name)]

    def read(self, name: str) -> bytes:
        """Content of a member."""
        return self.zip.read(name)

    def by_image(self, suffix: str, key: Callable[[str], str | None]) -> dict[str | None, list[str]]:
        """The members that end in ``suffix``, by ``key`` of their names."""
        found = defaultdict(list)
        for name in self.members:
            if name.lower().endswith(suffix):
                found[key(PurePosixPath(name).name)].append(name)
        return found


def bar(items: Iterable, unit: str) -> Iterable:
    """``items`` with a progress bar if they take longer than two seconds."""
    return tqdm(items, desc="checking", unit=unit, delay=2)


def is_clutter(name: str) -> bool:
    """Whether a file belongs to the computer that made the zip, not to the predictions."""
    return any(part in CLUTTER or part.startswith("._") for part in PurePosixPath(name).parts)
