"""Checks of Cityscapes' instance level: text files and the masks that they name."""

import math
import posixpath
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np

from ...cityscapes.counts import label_table
from ...cityscapes.official import load
from .faults import Fault, Report
from .images import check_png, check_size, header, pixels
from .labels import check_every_image, check_other_files, expected_keys, key_of
from .submission import Submission, bar

_LINE = "<mask file> <label id> <score>, with single spaces"


def label_ids() -> dict[int, bool]:
    """Label id -> whether the server scores its instances."""
    return {x.id: x.hasInstances and not x.ignoreInEval for x in load("helpers.labels").labels if x.id >= 0}


def check_line(line: str, where: str) -> Iterator[Fault]:
    """Three words."""
    if not line.strip():
        yield Fault("a line is blank, which the server refuses", f"each line is {_LINE}", where)
    elif len(line.split(" ")) != 3:
        fix = f"each line is {_LINE}; names of files have no spaces"
        yield Fault("a line does not have three words", fix, f"{where}: {line!r}"[:100])


def check_mask_path(path: str, text: str, where: str) -> Iterator[Fault]:
    if path.startswith(("/", "\\")) or path[1:2] == ":":
        yield Fault("the path of a mask is absolute", "write it relative to the text file", f"{where}: {path}")
    elif joined(text, path).startswith("../"):
        yield Fault("the path of a mask leads out of the archive", "keep masks inside", f"{where}: {path}")


def check_label_id(word: str, where: str) -> Iterator[Fault]:
    try:
        number = int(float(word))
    except ValueError:
        yield Fault("a label id is not a number", f"each line is {_LINE}", f"{where}: {word}")
        return
    scored = label_ids()
    allowed = ", ".join(str(number) for number, yes in scored.items() if yes)
    if number not in scored:
        yield Fault(
            "a label id does not exist, for which the server fails", f"allowed are {allowed}", f"{where}: {number}"
        )
    elif not scored[number]:
        hint = "; 11 to 18 are train ids" if 11 <= number <= 18 else ""
        yield Fault(
            "a label id has no instances: the server ignores the line silently",
            f"allowed are {allowed}{hint}",
            f"{where}: {number}",
        )


def check_score(word: str, where: str) -> Iterator[Fault]:
    try:
        finite = math.isfinite(float(word))
    except ValueError:
        finite = False
    if not finite:
        yield Fault("a score is not a finite number", f"each line is {_LINE}", f"{where}: {word}")


def check_masks_exist(named: Counter, present: set[str]) -> Iterator[Fault]:
    for path in named:
        if path not in present:
            yield Fault("a mask that a text file names is not in the archive", "add it, or remove the line", path)


def check_masks_once(named: Counter) -> Iterator[Fault]:
    for path, count in named.items():
        if count > 1:
            fix = "write a mask of its own for each object"
            yield Fault("a mask is named in several lines, of which the server keeps the last", fix, path)


def check_masks_used(named: Counter, present: set[str]) -> Iterator[Fault]:
    for path in sorted(present):
        if path not in named:
            fix = "remove it; it may be left from an earlier run"
            yield Fault("no text file names a mask", fix, path)


def check_mask_empty(mask: np.ndarray, path: str) -> Iterator[Fault]:
    if not mask.any():
        yield Fault("a mask is empty: the server skips it", "leave the line and the file out", path)


def check_channels(kind: str, path: str) -> Iterator[Fault]:
    if kind not in ("grey", "palette"):
        yield Fault("a mask has several channels", "write one channel, 0 outside of the object", f"{path} ({kind})")


def check_instances(sub: Submission, report: Report) -> None:
    """Run all checks of this family."""
    label_table()  # the package cityscapesscripts must be there
    report.add(check_every_image(sub, ".txt"))
    report.add(check_other_files(sub, (".txt", ".png")))
    named, owner = Counter(), {}
    lines = 0
    for text in (name for name in sub.members if name.lower().endswith(".txt")):
        content = sub.read(text).decode("utf-8", "replace")
        for number, line in enumerate(content.removesuffix("\n").split("\n") if content else [], start=1):
            where = f"{text}, line {number}"
            lines += 1
            faults = list(check_line(line, where))
            if not faults:
                path, label, score = line.rstrip("\r").split(" ")
                faults += check_mask_path(path, text, where)
                faults += check_label_id(label, where)
                faults += check_score(score, where)
                named[joined(text, path)] += 1
                owner[joined(text, path)] = text
            report.add(faults)
    present = {name for name in sub.members if name.lower().endswith(".png")}
    report.add(check_masks_exist(named, present))
    report.add(check_masks_once(named))
    report.add(check_masks_used(named, present))
    expected = expected_keys(sub)
    for path in bar(sorted(present & named.keys()), "mask"):
        _check_mask(path, owner[path], expected, sub, report)
    texts = max(1, sum(name.lower().endswith(".txt") for name in sub.members))
    report.facts.append(f"{lines} objects in {texts} images, {lines / texts:.1f} per image")


def _check_mask(path: str, text: str, expected: dict[str, dict], sub: Submission, report: Report) -> None:
    content = sub.read(path)
    faults = list(check_png(content, path))
    if not faults:
        head, record = header(content), expected.get(key_of(sub, PurePosixPath(text).name))
        faults = [
            *check_channels(head.kind, path),
            *check_size(head.size, sub.images.size(record) if record else None, path),
            *check_mask_empty(pixels(content), path),
        ]
    report.add(faults)


def joined(text: str, path: str) -> str:
    """Name in the archive of a mask that the file ``text`` names ``path``."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(text), path))
