"""Checks of COCO's JSON arrays: boxes, masks and stuff. One pass over the entries, whatever the size of the file."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pycocotools.mask as mask_util
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from ....data.run_lengths import run_length_problem
from ..coco import ALL_THINGS, STUFF_IDS
from ..json_stream import array_entries
from .faults import Fault, Report
from .submission import Submission, bar

#: The number of thing classes that the server knows.
THING_IDS = frozenset(category["id"] for category in COCO_CATEGORIES if category["isthing"])
#: Most objects per image that the server reads.
MOST_OBJECTS = 100
#: The number of objects from which on it is suspicious if some classes never occur.
_MANY = 1000


@dataclass
class Seen:
    """Counts over all entries.

    Attributes:
        sub: the archive.
        entries: the number of entries.
        per_image: image id -> the number of its entries.
        categories: category id -> the number of its entries.
        outside: the number of boxes that leave their image by more than a pixel.
        unknown: the category ids that do not exist.
        masks: image id -> the union of its masks so far; for stuff only.
        classes: the pairs (image id, category id) so far; for stuff only.
    """

    sub: Submission
    entries: int = 0
    per_image: dict = field(default_factory=dict)
    categories: dict = field(default_factory=dict)
    outside: int = 0
    unknown: set = field(default_factory=set)
    masks: dict = field(default_factory=dict)
    classes: set = field(default_factory=set)

    @property
    def stuff(self) -> bool:
        """Whether classes of stuff are allowed and no others."""
        return self.sub.task.family == "stuff"

    @property
    def field(self) -> str:
        """The field with the shape."""
        return "bbox" if self.sub.task.name == "coco-boxes" else "segmentation"

    @property
    def allowed(self) -> frozenset | range:
        """Category ids."""
        return range(STUFF_IDS.start, ALL_THINGS + 1) if self.stuff else THING_IDS

    def size(self, entry: dict) -> tuple[int, int] | None:
        """(H, W) of the image of an entry."""
        record = self.sub.images.by_id.get(entry.get("image_id")) if _is_int(entry.get("image_id")) else None
        return self.sub.images.size(record) if record else None


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# ---- the file ----


def check_one_json(sub: Submission) -> Iterator[Fault]:
    """One JSON file at the root, named like the archive, and nothing else."""
    expected = f"{sub.path.stem}.json"
    jsons = [name for name in sub.members if name.endswith(".json")]
    if not jsons:
        yield Fault("there is no JSON file in the archive", f"put {expected} at the root of the zip")
    for name in jsons:
        if "/" in name:
            fix = f"make the zip inside the folder: `zip {sub.path.name} {expected}`"
            yield Fault("the JSON file is in a folder; the server looks at the root of the zip only", fix, name)
        elif name != expected:
            yield Fault("the JSON file is not named like the archive", f"rename it to {expected}", name)
    if len(jsons) > 1:
        yield Fault("there is more than one JSON file", "send one file of results", ", ".join(jsons[:3]))
    for name in sub.members:
        if not name.endswith(".json"):
            yield Fault("there are files that the server does not expect", f"keep {expected} only", name)


# ---- each entry ----


def check_fields(entry: dict, seen: Seen) -> Iterator[Fault]:
    expected = {"image_id", "category_id", seen.field} | (set() if seen.stuff else {"score"})
    if missing := expected - entry.keys():
        fix = f"each entry has exactly {', '.join(sorted(expected))}"
        if {"bbox", "segmentation"} & entry.keys() and seen.field in missing:
            fix += f"; this looks like the results of another task than {seen.sub.task.name}"
        yield Fault(f"an entry lacks {', '.join(sorted(missing))}", fix)
    if "bbox" in entry and seen.field == "segmentation" and not seen.stuff:
        yield Fault(
            "masks come with boxes, by which the server would measure the size of objects (APs, APm, APl)",
            'remove "bbox" from the entries',
        )
    elif more := entry.keys() - expected:
        yield Fault(f"an entry has the field {min(more)}, which the server does not read", "leave it out")


def check_image_id(entry: dict, seen: Seen) -> Iterator[Fault]:
    value = entry.get("image_id")
    if "image_id" in entry and not _is_int(value):
        yield Fault("image_id is not a whole number", "write 139, not '139' or 139.0", repr(value))
    elif "image_id" in entry and value not in seen.sub.images.by_id:
        yield Fault(
            "image_id is not in the split: these are predictions on other images",
            f"predict the images of {seen.sub.split.dataset}",
            f"image {value}",
        )


def check_category_id(entry: dict, seen: Seen) -> Iterator[Fault]:
    value = entry.get("category_id")
    if "category_id" in entry and not _is_int(value):
        yield Fault("category_id is not a whole number", "write 1, not '1' or 1.0", repr(value))
    elif "category_id" in entry and value not in seen.allowed:
        seen.unknown.add(value)
        allowed = f"{STUFF_IDS.start} to {ALL_THINGS}" if seen.stuff else "COCO's 80 things, from 1 to 90 with gaps"
        yield Fault(f"category_id does not exist; allowed are {allowed}", "", f"category {value}")


def check_score(entry: dict, seen: Seen) -> Iterator[Fault]:
    value = entry.get("score", 0.0)
    if not _is_number(value) or not math.isfinite(value):
        yield Fault("score is not a finite number: the order of the objects is arbitrary", "", repr(value))


def check_box(entry: dict, seen: Seen) -> Iterator[Fault]:
    if seen.field != "bbox" or "bbox" not in entry:
        return
    box = entry["bbox"]
    if not (isinstance(box, list) and len(box) == 4 and all(_is_number(v) and math.isfinite(v) for v in box)):
        yield Fault("a box is not four finite numbers x, y, width, height", "", repr(box)[:60])
        return
    x, y, width, height = box
    if width <= 0 or height <= 0:
        yield Fault("a box has no width or no height", "write [x, y, width, height], 0-based", str(box))
    size = seen.size(entry)
    if size and (x < -1 or y < -1 or x + width > size[1] + 1 or y + height > size[0] + 1):
        seen.outside += 1
        yield Fault("a box leaves its image by more than a pixel", "", f"{box}, image {size} (H, W)", remark=True)


def check_mask(entry: dict, seen: Seen) -> Iterator[Fault]:
    if seen.field != "segmentation" or "segmentation" not in entry:
        return
    code = entry["segmentation"]
    if isinstance(code, list):
        yield Fault("a mask is a polygon", "the server asks for run lengths: pycocotools.mask.encode", "")
        return
    if not (isinstance(code, dict) and code.keys() == {"size", "counts"}):
        yield Fault('a mask is not {"size", "counts"}', "pycocotools.mask.encode gives both", repr(code)[:60])
        return
    size = seen.size(entry)
    if size and list(size) != code["size"]:
        half = [side * 2 for side in code["size"] if _is_int(side)] == list(size)
        what = "a mask has half the size of its image" if half else "a mask has another size than its image"
        yield Fault(what, "resize to the image's size first", f"{code['size']}, image {list(size)} (H, W)")
        return
    if not isinstance(code["counts"], str):
        yield Fault(
            "the run lengths of a mask are not compressed",
            "pycocotools.mask.encode, then .decode() of its counts",
            repr(code["counts"])[:40],
        )
    elif (problem := run_length_problem(code)) is not None:
        yield Fault("the run lengths of a mask cannot be decoded", "pycocotools.mask.encode makes them", problem)


def check_stuff_apart(entry: dict, seen: Seen) -> Iterator[Fault]:
    """One entry per class and image, and no pixel in two classes. This check is the last, so the mask is valid."""
    if not seen.stuff:
        return
    image, code = entry["image_id"], entry["segmentation"]
    if (image, entry["category_id"]) in seen.classes:
        yield Fault("a class has two entries in one image", "unite their masks", f"category {entry['category_id']}")
    seen.classes.add((image, entry["category_id"]))
    if image in seen.masks:
        if mask_util.area(mask_util.merge([seen.masks[image], code], intersect=True)):
            yield Fault("masks of an image overlap: a pixel has one class", "take the best class of each pixel")
        code = mask_util.merge([seen.masks[image], code])
    seen.masks[image] = code


ENTRY_CHECKS: tuple[Callable[[dict, Seen], Iterator[Fault]], ...] = (
    check_fields,
    check_image_id,
    check_category_id,
    check_score,
    check_box,
    check_mask,
)


# ---- all entries together ----


def check_contiguous_ids(seen: Seen) -> Iterator[Fault]:
    what = "these are contiguous class numbers of a network (0 to 79), not COCO's category ids"
    fix = "translate by the order of the categories in the annotations: 0 -> 1, ..., 79 -> 90"
    numbers = [c for c in seen.categories if _is_int(c)]
    if seen.stuff or not numbers:
        return
    if seen.unknown and max(numbers) <= len(THING_IDS) and min(numbers) >= 0:
        yield Fault(what, fix, f"category {min(seen.unknown)} and no category above {max(numbers)}")
    elif not seen.unknown and seen.entries >= _MANY and max(numbers) <= len(THING_IDS):
        yield Fault(f"there is no category above {max(numbers)}: perhaps {what}", fix, "", remark=True)


def check_corners(seen: Seen) -> Iterator[Fault]:
    if seen.outside > max(2, seen.entries // 10):
        yield Fault(
            "many boxes leave their images: these are corners x1, y1, x2, y2",
            "write x, y, width, height",
            f"{seen.outside} of {seen.entries} boxes",
        )


def check_number_of_objects(seen: Seen) -> Iterator[Fault]:
    if seen.stuff:
        return
    for image, count in seen.per_image.items():
        if count > MOST_OBJECTS:
            yield Fault(
                f"an image has more than {MOST_OBJECTS} objects; the server cuts off those with the lowest scores",
                "TEST.SUBMISSION.MAX_PER_IMAGE 100 makes the file smaller",
                f"image {image}: {count}",
                remark=True,
            )


def check_something_there(seen: Seen) -> Iterator[Fault]:
    if not seen.entries:
        yield Fault("there is no entry, for which the scorer fails", "predict with the right weights, and no threshold")


def check_images_covered(seen: Seen) -> Iterator[Fault]:
    """An image without an object is allowed. An image without stuff is not, because every pixel has a class."""
    total = len(seen.sub.images.records)
    absent = [i for i in seen.sub.images.by_id if i not in seen.per_image]
    if absent and seen.entries:
        share = f"{len(absent)} of {total} images (the first is {absent[0]})"
        if seen.stuff:
            yield Fault("images have no prediction", "predict every image of the split", share)
        else:
            yield Fault("images have no object; if that is not meant, predictions are missing", "", share, remark=True)


TOTAL_CHECKS = (
    check_something_there,
    check_contiguous_ids,
    check_corners,
    check_number_of_objects,
    check_images_covered,
)


def check_entries(sub: Submission, report: Report) -> None:
    """Run all checks of the JSON file, if there is one."""
    report.add(check_one_json(sub))
    name = next((name for name in sub.members if name.endswith(".json")), None)
    if name is None:
        return
    seen = Seen(sub)
    try:
        with sub.zip.open(name) as file:
            for number, entry in enumerate(bar(array_entries(file), "entry")):
                _check_entry(number, entry, seen, report)
    except TypeError as error:
        fix = 'write the array itself, not {"annotations": [...]}'
        report.add([Fault("the JSON file is not an array of objects", fix, f"{name}: {error}")])
        return
    except ValueError as error:
        report.add([Fault("the JSON file is not JSON, or is cut short", "write it again", f"{name}: {error}")])
        return
    for check in TOTAL_CHECKS:
        report.add(check(seen))
    report.facts.append(f"{seen.entries} entries on {len(seen.per_image)} images, {len(seen.categories)} categories")


def _check_entry(number: int, entry: object, seen: Seen, report: Report) -> None:
    seen.entries += 1
    if not isinstance(entry, dict):
        report.add([Fault("an entry is not an object", "each entry is {...}", f"entry {number}: {entry!r}"[:60])])
        return
    image, category = entry.get("image_id"), entry.get("category_id")
    if _is_int(image):
        seen.per_image[image] = seen.per_image.get(image, 0) + 1
    if _is_int(category):
        seen.categories[category] = seen.categories.get(category, 0) + 1
    sound = True
    for check in ENTRY_CHECKS:
        for fault in check(entry, seen):
            sound = sound and fault.remark
            report.add([_placed(fault, number, image)])
    if sound:
        report.add(_placed(fault, number, image) for fault in check_stuff_apart(entry, seen))


def _placed(fault: Fault, number: int, image: object) -> Fault:
    where = f"entry {number} (image {image})" + (f": {fault.where}" if fault.where else "")
    return Fault(fault.what, fault.fix, where, fault.remark)
