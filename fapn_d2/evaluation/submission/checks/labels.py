"""Checks of label images: Cityscapes' pixel level, ADE20K and Mapillary Vistas."""

from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np

from ....data.datasets.ade20k import NUM_CLASSES as ADE20K_CLASSES
from ....data.datasets.mapillary import COLORS as VISTAS_CLASSES
from ...cityscapes.counts import label_table
from ...cityscapes.files import image_key
from .faults import Fault, Report
from .images import Header, check_png, check_size, header, pixels
from .submission import Submission, bar

#: Values that mean "not labelled" in training labels.
IGNORED = {255: "ignored pixels of the training labels", 200: "values that a conversion table did not know"}


def key_of(sub: Submission, name: str) -> str | None:
    """The key that a file and its image share: <city>_<sequence>_<frame> for Cityscapes, else the stem."""
    if sub.task.server != "cityscapes":
        return PurePosixPath(name).stem
    try:
        return image_key(name)
    except ValueError:
        return None


def expected_keys(sub: Submission) -> dict[str, dict]:
    """Key -> record of each image of the split."""
    return {key_of(sub, record["file_name"]): record for record in sub.images.records}


def check_every_image(sub: Submission, suffix: str) -> Iterator[Fault]:
    """One file for each image, found as the server finds it."""
    found, expected = sub.by_image(suffix, lambda name: key_of(sub, name)), expected_keys(sub)
    pattern = (
        f"<city>_<sequence>_<frame>*{suffix}" if sub.task.server == "cityscapes" else f"<name of the image>{suffix}"
    )
    missing = [key for key in expected if key not in found]
    for key in missing:
        yield Fault("an image has no prediction", f"add a file {pattern}", f"{key} ({len(missing)} of {len(expected)})")
    for key, names in found.items():
        if key not in expected:
            fix = f"files are named {pattern}; are these predictions of another split?"
            for name in names:
                yield Fault("a file belongs to no image of the split", fix, name)
        elif len(names) > 1:
            yield Fault("an image has several predictions", "keep one of them", ", ".join(names[:3]))


def check_other_files(sub: Submission, suffixes: tuple[str, ...]) -> Iterator[Fault]:
    for name in sub.members:
        if not name.lower().endswith(suffixes):
            yield Fault("there are files that the server does not expect", f"keep {' and '.join(suffixes)}", name)


def check_mode(head: Header, name: str) -> Iterator[Fault]:
    """A palette image is accepted like a grey one if its indices are the values."""
    if head.kind not in ("grey", "palette"):
        yield Fault(
            "a label image has several channels: it shows colours instead of class numbers",
            "write one channel with the class numbers, or a palette image whose indices are class numbers",
            f"{name} ({head.kind})",
        )
    elif head.bits == 16:
        yield Fault("a label image has 16 bits, for which the server fails", "convert to uint8", name)
    elif head.bits != 8:
        yield Fault("a label image has fewer than 8 bits", "write 8 bits", f"{name} ({head.bits} bits)")


def allowed_values(sub: Submission) -> np.ndarray:
    """Values that a pixel may have."""
    if sub.task.server == "cityscapes":
        return np.sort(label_table().label_id)
    return np.arange(ADE20K_CLASSES + 1) if sub.task.server == "ade20k" else np.arange(len(VISTAS_CLASSES))


def check_values(values: np.ndarray, allowed: np.ndarray, name: str) -> Iterator[Fault]:
    for value in np.setdiff1d(values, allowed):
        if value in IGNORED:
            fix = "take the best class of every pixel"
            yield Fault(f"{value} is not a class: these are {IGNORED[value]}", fix, name)
        else:
            yield Fault(
                "a value is not a class that the server scores", f"allowed are {in_ranges(allowed)}", f"{name}: {value}"
            )


def check_train_ids(values: np.ndarray, sub: Submission) -> Iterator[Fault]:
    """A check of all files together: Cityscapes' train ids (0 to 18) instead of label ids (7 to 33)."""
    table = label_table().label_id
    if (
        sub.task.server == "cityscapes"
        and values.size
        and values[values < 200].max(initial=0) < len(table)
        and values.min() < 7
    ):
        yield Fault(
            "these are train ids (0 to 18), not label ids",
            f"translate 0..18 to {', '.join(map(str, table))}",
            f"values {values.min()} to {values[values < 200].max(initial=0)}",
        )


def check_counts_from_one(values: np.ndarray, sub: Submission) -> Iterator[Fault]:
    """A check of all files together: ADE20K's classes minus one."""
    if sub.task.server == "ade20k" and 0 in values:
        yield Fault(
            "0 occurs, which is not a class to the server: classes count from 1 (class of the network + 1)",
            "" if ADE20K_CLASSES in values else f"{ADE20K_CLASSES} never occurs: add 1 if these are classes 0 to 149",
            remark=True,
        )


def check_label_images(sub: Submission, report: Report) -> None:
    """Run all checks of this family."""
    report.add(check_every_image(sub, ".png"))
    report.add(check_other_files(sub, (".png",)))
    expected, allowed, everything = expected_keys(sub), allowed_values(sub), np.zeros(0, np.int64)
    count = 0
    for name in bar([name for name in sub.members if name.lower().endswith(".png")], "image"):
        content = sub.read(name)
        head = header(content)
        count += 1
        faults = list(check_png(content, name))
        if not faults and head is not None:
            record = expected.get(key_of(sub, name))
            faults = [
                *check_mode(head, name),
                *check_size(head.size, sub.images.size(record) if record else None, name),
            ]
            if head.kind in ("grey", "palette"):
                values = np.unique(pixels(content)).astype(np.int64)
                everything = np.union1d(everything, values)
                faults += check_values(values, allowed, name)
        report.add(faults)
    report.add(check_train_ids(everything, sub))
    report.add(check_counts_from_one(everything, sub))
    report.facts.append(f"{count} label images with {len(np.intersect1d(everything, allowed))} classes")


def in_ranges(values: np.ndarray) -> str:
    """Ascending numbers for people: "7, 8, 11-13"."""
    groups = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return ", ".join(f"{g[0]}-{g[-1]}" if len(g) > 1 else str(g[0]) for g in groups)
