"""Checks of panoptic archives, COCO's and Cityscapes': the JSON file, the PNGs, and whether they agree."""

import json
from collections import Counter
from collections.abc import Iterator

import numpy as np
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from ....data.datasets.cityscapes import panoptic_categories
from ....data.panoptic_png import rgb2id
from ...cityscapes.counts import label_table
from .faults import Fault, Report
from .images import Header, check_png, check_size, header, pixels
from .submission import Submission, bar

#: The largest fraction of pixels without a segment that gets no remark.
MUCH_VOID = 0.5


def category_ids(sub: Submission) -> frozenset[int]:
    """Categories that the server knows."""
    categories = panoptic_categories() if sub.task.server == "cityscapes" else COCO_CATEGORIES
    return frozenset(category["id"] for category in categories)


# ---- the JSON file ----


def check_names(sub: Submission) -> Iterator[Fault]:
    """One JSON file at the root, with a folder of its name beside it."""
    jsons = [name for name in sub.members if name.endswith(".json")]
    expected = _expected_json(sub)
    if not jsons:
        yield Fault("there is no JSON file in the archive", f"put {expected} at the root of the zip")
        return
    if len(jsons) > 1:
        yield Fault("there is more than one JSON file", "send one", ", ".join(jsons[:3]))
    if "/" in jsons[0]:
        fix = "make the zip inside the folder, so that the JSON file is at its root"
        yield Fault("the JSON file is in a folder; the server looks at the root of the zip only", fix, jsons[0])
    elif jsons[0] != expected:
        yield Fault(f"the JSON file is not named {expected}", "rename it, and the folder too", jsons[0])
    folder = folder_of(jsons[0])
    if not any(name.startswith(folder) for name in sub.members):
        yield Fault("there is no folder of PNGs with the name of the JSON file", f"put them into {folder}", folder)


def _expected_json(sub: Submission) -> str:
    if sub.task.server == "coco":
        return f"{sub.path.stem}.json"
    return f"cityscapes_panoptic_{sub.split.official}.json"


def folder_of(json_name: str) -> str:
    """Where the PNGs of a JSON file are."""
    return json_name.removesuffix(".json") + "/"


def check_object(content: object, name: str) -> Iterator[Fault]:
    fix = 'write {"annotations": [{"image_id", "file_name", "segments_info"}, ...]}'
    if not (isinstance(content, dict) and isinstance(content.get("annotations"), list)):
        yield Fault("the JSON file is not an object with annotations", fix, name)
        return
    for number, entry in enumerate(content["annotations"]):
        lacking = {"image_id", "file_name", "segments_info"} - (entry.keys() if isinstance(entry, dict) else set())
        if lacking:
            yield Fault(f"an annotation lacks {', '.join(sorted(lacking))}", fix, f"annotation {number}")
        elif not isinstance(entry["segments_info"], list) or not all(
            isinstance(s, dict) and {"id", "category_id"} <= s.keys() for s in entry["segments_info"]
        ):
            yield Fault("segments_info is not a list of segments with id and category_id", fix, f"annotation {number}")


def check_images(annotations: list[dict], sub: Submission) -> Iterator[Fault]:
    known, counts = sub.images.by_id, Counter(str(a["image_id"]) for a in annotations)
    given = {a["image_id"] for a in annotations if isinstance(a["image_id"], (int, str))}
    for annotation in annotations:
        image = annotation["image_id"]
        if image in known:
            continue
        if str(image) in {str(i) for i in known}:
            yield Fault("image_id is text where the server wants a number", "write 139, not '139'", repr(image))
        else:
            fix = f"predict the images of {sub.split.dataset}"
            if sub.task.server == "cityscapes":
                fix += "; image_id is <city>_<sequence>_<frame>"
            yield Fault("image_id is not in the split", fix, repr(image))
    missing = [i for i in known if i not in given]
    for image in missing:
        yield Fault("an image has no annotation", "predict it", f"{image} ({len(missing)} of {len(known)})")
    for image, count in counts.items():
        if count > 1:
            yield Fault("an image has several annotations, of which the server keeps the last", "keep one", image)


def check_file_names(annotations: list[dict], folder: str, sub: Submission) -> Iterator[Fault]:
    present, named = set(sub.members), set()
    for annotation in annotations:
        name = str(annotation["file_name"])
        named.add(folder + name)
        if not name.endswith(".png"):
            yield Fault("file_name does not end in .png", "write PNGs, and their names", name)
        elif folder + name not in present:
            yield Fault("a PNG that the JSON file names is not in the archive", f"put it into {folder}", name)
    for name in sub.members:
        if name not in named and not name.endswith(".json"):
            yield Fault("the JSON file does not name a file", "remove it; it may be left from an earlier run", name)


def check_categories(annotations: list[dict], sub: Submission) -> Iterator[Fault]:
    known = category_ids(sub)
    used = {s["category_id"] for a in annotations for s in a["segments_info"]}
    if unknown := {c for c in used if c not in known}:
        numbers = [c for c in used if isinstance(c, int)]
        if sub.task.server == "cityscapes" and numbers and max(numbers) < len(label_table().label_id):
            yield Fault(
                "the categories are train ids (0 to 18), not label ids", "24 is a person, 26 a car", str(sorted(used))
            )
            return
        if sub.task.server == "coco" and numbers and max(numbers) < len(known) and 0 in numbers:
            fix = "translate by the order of the 133 categories"
            yield Fault("the categories are contiguous numbers of a network, not COCO's ids", fix, "category 0")
            return
        for category in sorted(unknown, key=str):
            yield Fault("category_id does not exist", "use the ids of the panoptic annotations of val", str(category))


def check_segment_ids(annotation: dict) -> Iterator[Fault]:
    for number, count in Counter(s["id"] for s in annotation["segments_info"]).items():
        where = f"image {annotation['image_id']}, segment {number}"
        if count > 1:
            yield Fault("two segments of an image have one id, of which the server keeps the last", "count anew", where)
        if not isinstance(number, int) or not 0 < number < 256**3:
            yield Fault("a segment id is not a whole number from 1 to 16777215", "0 is void", where)


# ---- each PNG ----


def check_mode(head: Header, name: str) -> Iterator[Fault]:
    fix = "write R + 256 G + 65536 B = id as 8-bit RGB"
    if head.bits == 16:
        yield Fault("a PNG has 16 bits", fix, name)
    elif head.kind == "RGB with alpha":
        yield Fault("a PNG has an alpha channel, which the server ignores", fix, name, remark=True)
    elif head.kind != "RGB":
        yield Fault("a PNG is not RGB, so it contains no segment ids", fix, f"{name} ({head.kind})")


def check_agreement(ids: set[int], annotation: dict) -> Iterator[Fault]:
    """Compare the segments of the PNG with those of the JSON file."""
    listed = {s["id"] for s in annotation["segments_info"]}
    for number in sorted(ids - listed - {0}):
        fix = "list every segment, or write 0 for void"
        yield Fault(
            "a segment is in the PNG and not in the JSON file", fix, f"image {annotation['image_id']}, segment {number}"
        )
    for number in sorted(listed - ids, key=str):
        fix = "leave out segments that have no pixel"
        yield Fault(
            "a segment is in the JSON file and not in the PNG", fix, f"image {annotation['image_id']}, segment {number}"
        )


def check_void(void: int, total: int) -> Iterator[Fault]:
    if total and void / total > MUCH_VOID:
        yield Fault(
            "most pixels are in no segment",
            "lower the thresholds if that is not meant",
            f"{void / total:.0%}",
            remark=True,
        )


def check_panoptic(sub: Submission, report: Report) -> None:
    """Run all checks of this family."""
    report.add(check_names(sub))
    name = next((name for name in sub.members if name.endswith(".json")), None)
    if name is None:
        return
    try:
        content = json.loads(sub.read(name))
    except ValueError as error:
        report.add([Fault("the JSON file is not JSON, or is cut short", "write it again", f"{name}: {error}")])
        return
    faults = list(check_object(content, name))
    report.add(faults)
    if faults:
        return
    annotations, folder = content["annotations"], folder_of(name)
    report.add(check_images(annotations, sub))
    report.add(check_file_names(annotations, folder, sub))
    report.add(check_categories(annotations, sub))
    void = total = segments = 0
    present = set(sub.members)
    for annotation in bar(annotations, "image"):
        report.add(check_segment_ids(annotation))
        segments += len(annotation["segments_info"])
        if (path := folder + str(annotation["file_name"])) in present:
            image_void, image_total = _check_image(path, annotation, sub, report)
            void, total = void + image_void, total + image_total
    report.add(check_void(void, total))
    share = f", {void / total:.1%} of the pixels in none" if total else ""
    report.facts.append(f"{segments} segments in {len(annotations)} images{share}")


def _check_image(path: str, annotation: dict, sub: Submission, report: Report) -> tuple[int, int]:
    """Check a PNG; returns the number of its pixels without a segment, and the number of all its pixels."""
    content = sub.read(path)
    faults = list(check_png(content, path))
    if faults:
        report.add(faults)
        return 0, 0
    head = header(content)
    record = sub.images.by_id.get(annotation["image_id"])
    report.add(check_mode(head, path))
    report.add(check_size(head.size, sub.images.size(record) if record else None, path))
    if head.bits != 8 or not head.kind.startswith("RGB"):
        return 0, 0
    values, counts = np.unique(rgb2id(pixels(content)[..., :3]), return_counts=True)
    report.add(check_agreement(set(values.tolist()), annotation))
    return int(counts[values == 0].sum()), int(counts.sum())
