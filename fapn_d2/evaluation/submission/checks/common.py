"""Checks of any archive: the zip itself, its names, its size and its age."""

import re
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath

from ..archive import in_words
from .faults import Fault
from .submission import Submission, is_clutter

#: Servers have failed on JSON files above this size.
LARGE_JSON = 10**9
#: More files than this need an extension of the zip format that not every program can read.
MANY_FILES = 65535


def check_encryption(sub: Submission) -> Iterator[Fault]:
    for info in sub.zip.infolist():
        if info.flag_bits & 1:
            yield Fault("files are encrypted", "make the zip without a password", info.filename)


def check_checksums(sub: Submission) -> Iterator[Fault]:
    """Reads everything once."""
    fix = "make the zip again, and compare its size after copying it"
    for info in sub.zip.infolist():
        try:
            with sub.zip.open(info) as member:
                while member.read(1 << 20):
                    pass
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
            yield Fault("a file in the zip is damaged", fix, f"{info.filename} ({error})")


def check_paths(sub: Submission) -> Iterator[Fault]:
    for info in sub.zip.infolist():
        name = info.filename
        if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name) or ".." in PurePosixPath(name).parts:
            yield Fault("a path leads out of the archive", "make the zip inside the folder, with relative paths", name)
        elif "\\" in name:
            yield Fault("a path has backslashes", "make the zip with / between folders", name)


def check_clutter(sub: Submission) -> Iterator[Fault]:
    for info in sub.zip.infolist():
        if is_clutter(info.filename):
            fix = "make the zip by `zip -r ARCHIVE . -x '*.DS_Store' -x '__MACOSX/*'`, not by the file manager"
            yield Fault("a __MACOSX folder or other files of the operating system are in the zip", fix, info.filename)


def check_doubled_names(sub: Submission) -> Iterator[Fault]:
    counts = Counter(info.filename for info in sub.zip.infolist())
    for name, count in counts.items():
        if count > 1:
            yield Fault("a name is in the zip more than once", "make a new zip instead of adding to an old one", name)


def check_archive_name(sub: Submission) -> Iterator[Fault]:
    """COCO prescribes the name; the other servers accept any name."""
    if sub.task.server != "coco":
        return
    example = sub.task.names(_split_name(sub), "ALGORITHM").archive
    if not re.fullmatch(re.escape(example).replace("ALGORITHM", ".+"), sub.path.name):
        yield Fault(f"the archive's name does not follow {example}", "rename it", sub.path.name)


def check_age(sub: Submission) -> Iterator[Fault]:
    if sub.newer_than is None:
        return
    moment, what = sub.newer_than
    times = [time.mktime((*info.date_time, 0, 0, -1)) for info in sub.zip.infolist()]
    if times and max(times) + 2 < moment:  # zips count in steps of two seconds
        yield Fault(
            f"the newest file is older than {what}: these are predictions of an earlier run",
            "write the archive again",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(max(times))),
        )


def check_size(sub: Submission) -> Iterator[Fault]:
    for info in sub.zip.infolist():
        if info.filename.endswith(".json") and info.file_size > LARGE_JSON:
            yield Fault(
                "a JSON file has more than 1 GB, for which servers have run out of memory",
                "lower TEST.SUBMISSION.MAX_PER_IMAGE or raise TEST.SUBMISSION.SCORE_THRESH",
                f"{info.filename} ({in_words(info.file_size)})",
                remark=True,
            )
    if len(sub.members) > MANY_FILES:
        yield Fault(
            f"there are more than {MANY_FILES} files, which old unpackers cannot read",
            "raise TEST.SUBMISSION.SCORE_THRESH or lower TEST.SUBMISSION.MAX_PER_IMAGE",
            f"{len(sub.members)} files",
            remark=True,
        )


def check_list(sub: Submission) -> Iterator[Fault]:
    """The list of images must be the server's. Otherwise a comparison with it is of little use."""
    found, official = len(sub.images.records), sub.split.images
    if official and found != official:
        yield Fault(
            f"the server's split {sub.split.official} has {official} images, the list has another number",
            "complete the images of the data set, or name the right list by --images",
            f"{found} in {sub.images.source}",
            remark=not sub.images.complete,
        )


def _split_name(sub: Submission) -> str:
    return next(name for name, split in sub.task.splits.items() if split == sub.split)


#: Without these nothing else can be read.
READABLE = (check_encryption, check_checksums)
CHECKS = (
    check_paths,
    check_clutter,
    check_doubled_names,
    check_archive_name,
    check_age,
    check_size,
    check_list,
)
