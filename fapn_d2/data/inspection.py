"""Every file and annotation of a data set, read once: what a training would stumble over, and statistics."""

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ..messages import nearest
from .datasets.catalog import locate
from .datasets.coco_json import categories
from .datasets.conversion import in_parallel
from .datasets.unlabelled import image_list, unlabelled
from .panoptic_png import read_segment_ids
from .reading import read_image, read_labels
from .run_lengths import run_length_problem

#: Examples that a report keeps of each kind of fault.
EXAMPLES = 10
#: COCO's limits between small, medium and large objects: areas of boxes in pixels.
SIZES = {"small": 32**2, "medium": 96**2, "large": math.inf}
#: Pixels by which coordinates may lie outside of their image, as rounding has it.
TOLERANCE = 1.0


@dataclass
class DataReport:
    """What :func:`inspect_dataset` found in one data set."""

    name: str
    images: int = 0
    objects: int = 0
    #: Kind of fault -> {"count", "examples"}; anything here should be fixed before a training.
    faults: dict[str, dict] = field(default_factory=dict)
    #: The same for what a training accepts: images without objects, unused classes, equal images.
    notes: dict[str, dict] = field(default_factory=dict)
    object_classes: dict[str, int] = field(default_factory=dict)  #: objects per class
    region_classes: dict[str, int] = field(default_factory=dict)  #: pixels per class
    object_sizes: dict[str, int] = field(default_factory=dict)  #: objects per size, as COCO defines sizes
    fingerprint: str = ""  #: SHA-256 of the pixels, labels and annotations of all images, whatever their order

    def as_dict(self) -> dict:
        return asdict(self)

    def add(self, kind: str, example: str, *, note: bool = False) -> None:
        """Count a fault, or a note, and keep it if it is among the first :data:`EXAMPLES`."""
        entry = (self.notes if note else self.faults).setdefault(kind, {"count": 0, "examples": []})
        entry["count"] += 1
        if len(entry["examples"]) < EXAMPLES:
            entry["examples"].append(example)


@dataclass
class _Found:
    """What was found in one image."""

    file_name: str
    faults: list[tuple[str, str]] = field(default_factory=list)
    pixels: str = ""  # hash of the picture
    content: str = ""  # hash of picture, labels and annotations
    objects: Counter = field(default_factory=Counter)
    sizes: Counter = field(default_factory=Counter)
    regions: Counter = field(default_factory=Counter)


@dataclass(frozen=True)
class _Rules:
    """What is allowed; sent to the processes that read images."""

    object_ids: frozenset[int] | None  # ids of classes in annotations
    regions: int | None  # number of classes in label images
    ignore_label: int | None


def inspect_datasets(names: Sequence[str], *, train: Collection[str] = (), workers: int = 0) -> list[DataReport]:
    """:func:`inspect_dataset` for several data sets, with a search for images that two of them share.

    Args:
        names: registered data sets.
        train: those of them that a network is trained on. An image that one of these shares with another one is a
            fault; otherwise it is a note.
        workers: number of processes; 0 for this process.
    """
    reports, seen = [], {}
    for name in dict.fromkeys(names):
        report, pixels = _inspect(name, workers)
        shared: dict[str, list[str]] = {}
        for digest, file_name in pixels.items():
            if digest in seen:
                other, twin = seen[digest]
                shared.setdefault(other, []).append(f"{file_name} equals {twin}")
            else:
                seen[digest] = (name, file_name)
        for other, examples in shared.items():
            for example in examples:
                note = (name in train) == (other in train)
                report.add(f"images that {other} has too", example, note=note)
        reports.append(report)
    return reports


def inspect_dataset(name: str, *, workers: int = 0) -> DataReport:
    """Read every file and annotation of a registered data set.

    Args:
        name: a name in Detectron2's catalog.
        workers: number of processes; 0 for this process.

    Raises:
        ValueError: the name is not registered, or a JSON file cannot be read.
        FileNotFoundError: a JSON file or a whole folder is missing. Single missing files are faults in the report.
    """
    return _inspect(name, workers)[0]


def _inspect(name: str, workers: int) -> tuple[DataReport, dict[str, str]]:
    if name not in DatasetCatalog:
        raise ValueError(f'data set "{name}" is not registered{nearest(name, DatasetCatalog, cutoff=0.5)}')
    locate(name)
    report = DataReport(name)
    records, names = _records(name, report)
    metadata = MetadataCatalog.get(name)
    stuff = metadata.get("stuff_classes") or []
    rules = _Rules(frozenset(names) if names else None, len(stuff) or None, metadata.get("ignore_label"))
    found = in_parallel(partial(_inspect_image, rules), records, description=name, workers=workers)
    objects, sizes, regions, pixels = Counter(), Counter(), Counter(), {}
    for image in found:
        for kind, example in image.faults:
            report.add(kind, example)
        objects.update(image.objects)
        sizes.update(image.sizes)
        regions.update(image.regions)
        if image.pixels in pixels:
            report.add("equal images", f"{image.file_name} equals {pixels[image.pixels]}", note=True)
        elif image.pixels:
            pixels[image.pixels] = image.file_name
    report.images, report.objects = len(records), objects.total()
    report.object_classes = {label: objects[number] for number, label in names.items()}
    report.region_classes = {label: regions[number] for number, label in enumerate(stuff)}
    report.object_sizes = {size: sizes[size] for size in SIZES} if names else {}
    for kind, classes in (("objects", report.object_classes), ("regions", report.region_classes)):
        for label in [label for label, count in classes.items() if not count]:
            report.add(f"classes without {kind}", label, note=True)
    report.fingerprint = hashlib.sha256("".join(sorted(image.content for image in found)).encode()).hexdigest()
    return report, pixels


def _records(name: str, report: DataReport) -> tuple[list[dict], dict[int, str]]:
    """Records with annotations as they stand in the files, and {id of a class of objects: name}."""
    metadata = MetadataCatalog.get(name)
    if unlabelled(name):
        return image_list(name), {}
    if metadata.get("json_file") and metadata.get("image_root"):
        return _coco_records(metadata, report)
    records = DatasetCatalog.get(name)
    return records, dict(enumerate(metadata.get("thing_classes") or []))


def _coco_records(metadata: Any, report: DataReport) -> tuple[list[dict], dict[int, str]]:
    path = metadata.json_file
    names = {category["id"]: category["name"] for category in categories(path)}
    content = _read_json(path)
    records: dict[Any, dict] = {}
    for image in content.get("images", []):
        if image.get("id") in records:
            report.add("image ids that occur twice", f"{path}: {image['id']}")
            continue
        file_name = os.path.join(metadata.image_root, str(image.get("file_name")))
        record = {key: image[key] for key in ("height", "width") if key in image}
        records[image.get("id")] = record | {"file_name": file_name, "annotations": []}
        if labels := metadata.get("sem_seg_root"):
            stem = os.path.splitext(str(image.get("file_name")))[0]
            records[image.get("id")]["sem_seg_file_name"] = os.path.join(labels, f"{stem}.png")
    ids = Counter(annotation.get("id") for annotation in content.get("annotations", []))
    for number in [number for number, count in ids.items() if count > 1]:
        report.add("annotation ids that occur twice", f"{path}: {number}")
    for annotation in content.get("annotations", []):
        if annotation.get("image_id") not in records:
            where = f"{path}: annotation {annotation.get('id')} of image {annotation.get('image_id')}"
            report.add("annotations of images that do not exist", where)
        else:
            annotation = annotation | {"bbox_mode": BoxMode.XYWH_ABS}
            records[annotation["image_id"]]["annotations"].append(annotation)
    for record in records.values():
        if not record["annotations"]:
            report.add("images without objects", record["file_name"], note=True)
    if metadata.get("panoptic_json"):
        _add_panoptic(metadata, records, report)
    return list(records.values()), names


def _add_panoptic(metadata: Any, records: dict[Any, dict], report: DataReport) -> None:
    entries = {entry["image_id"]: entry for entry in _read_json(metadata.panoptic_json).get("annotations", [])}
    for number, record in records.items():
        if number not in entries:
            report.add("images without a panoptic annotation", record["file_name"])
            continue
        record["pan_seg_file_name"] = os.path.join(metadata.panoptic_root, entries[number]["file_name"])
        record["segments"] = [segment["id"] for segment in entries[number]["segments_info"]]
    for number in entries.keys() - records.keys():
        report.add("panoptic annotations of images that do not exist", f"{metadata.panoptic_json}: image {number}")


def _read_json(path: str) -> dict:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"the annotations {path} are absent")
    try:
        with open(path) as file:
            content = json.load(file)
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} contains a {type(content).__name__}, not an object with images and annotations")
    return content


def _inspect_image(rules: _Rules, record: dict) -> _Found:
    path = record["file_name"]
    found = _Found(path)
    digest = hashlib.sha256()
    size = None
    picture = _read(found, "images", path, lambda: read_image(path, "RGB"))
    if picture is not None:
        size = picture.shape[:2]
        found.pixels = hashlib.sha256(repr(size).encode() + picture.tobytes()).hexdigest()
        digest.update(found.pixels.encode())
        stated = record.get("height", size[0]), record.get("width", size[1])
        if tuple(stated) != size:
            found.faults.append(("images of another size than their annotation says", f"{path}: {size}, not {stated}"))
    if labels := record.get("sem_seg_file_name"):
        _inspect_regions(found, rules, labels, size, digest)
    if segments := record.get("pan_seg_file_name"):
        _inspect_segments(found, record, segments, size, digest)
    height, width = size or (record.get("height"), record.get("width"))
    for annotation in record.get("annotations", []):
        _inspect_object(found, rules, annotation, height, width)
        digest.update(repr(sorted((k, repr(v)) for k, v in annotation.items())).encode())
    found.content = digest.hexdigest()
    return found


def _read(found: _Found, what: str, path: str, action) -> np.ndarray | None:
    try:
        return action()
    except FileNotFoundError:
        found.faults.append((f"missing {what}", path))
    except ValueError as error:
        found.faults.append((f"{what} that cannot be read", str(error)))
    return None


def _read_map(
    found: _Found, what: str, path: str, read: Callable[[str], np.ndarray], size: tuple | None, digest: Any
) -> np.ndarray | None:
    """A map with one value per pixel, which counts for the fingerprint and must have the size of the image."""
    values = _read(found, what, path, lambda: read(path))
    if values is not None:
        digest.update(values.tobytes())
        if size is not None and values.shape != size:
            found.faults.append((f"{what} of another size than their image", f"{path}: {values.shape}, image {size}"))
    return values


def _inspect_regions(found: _Found, rules: _Rules, path: str, size: tuple | None, digest: Any) -> None:
    labels = _read_map(found, "labels", path, read_labels, size, digest)
    if labels is None:
        return
    for value, count in zip(*(array.tolist() for array in np.unique(labels, return_counts=True))):
        if rules.regions is not None and not 0 <= value < rules.regions and value != rules.ignore_label:
            kind = f"label values that are not 0 to {rules.regions - 1} or {rules.ignore_label}"
            found.faults.append((kind, f"{path}: {count} pixels of {value}"))
        elif value != rules.ignore_label:
            found.regions[value] += count


def _inspect_segments(found: _Found, record: dict, path: str, size: tuple | None, digest: Any) -> None:
    ids = _read_map(found, "panoptic labels", path, read_segment_ids, size, digest)
    if ids is None:
        return
    stated, drawn = set(record["segments"]), set(np.unique(ids).tolist()) - {0}
    if stated != drawn:
        text = f"{path}: {len(stated - drawn)} are only in the JSON file, {len(drawn - stated)} only in the PNG"
        found.faults.append(("panoptic segments that differ between JSON file and PNG", text))


def _inspect_object(found: _Found, rules: _Rules, annotation: dict, height: int | None, width: int | None) -> None:
    where = f"{found.file_name}: object {annotation.get('id', '')}".rstrip()
    category = annotation.get("category_id")
    if rules.object_ids is not None and category not in rules.object_ids:
        found.faults.append(("classes of objects that do not exist", f"{where} has category_id {category}"))
    found.objects[category] += 1
    fault = _box_fault(annotation, height, width)
    if fault:
        found.faults.append((f"boxes that {fault}", f"{where}: {annotation.get('bbox')}"))
    else:
        x0, y0, x1, y1 = _corners(annotation)
        found.sizes[next(size for size, limit in SIZES.items() if (x1 - x0) * (y1 - y0) < limit)] += 1
    if annotation.get("segmentation") and (fault := _mask_fault(annotation["segmentation"], height, width)):
        found.faults.append((f"masks that {fault}", where))


def _corners(annotation: dict) -> list[float]:
    a, b, c, d = map(float, annotation["bbox"])
    return [a, b, c, d] if annotation.get("bbox_mode") == BoxMode.XYXY_ABS else [a, b, a + c, b + d]


def _box_fault(annotation: dict, height: int | None, width: int | None) -> str:
    try:
        x0, y0, x1, y1 = _corners(annotation)
    except (KeyError, TypeError, ValueError):
        return "are not four numbers"
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        return "are NaN or infinite"
    if x1 < x0 or y1 < y0:
        return "have a negative width or height"
    if x1 == x0 or y1 == y0:
        return "are empty"
    if width and height and (min(x0, y0) < -TOLERANCE or x1 > width + TOLERANCE or y1 > height + TOLERANCE):
        return "lie outside of their image"
    return ""


def _mask_fault(segmentation: Any, height: int | None, width: int | None) -> str:
    if isinstance(segmentation, dict):
        return _run_length_fault(segmentation, height, width)
    if not isinstance(segmentation, list):
        return "are neither polygons nor run lengths"
    for polygon in segmentation:
        try:
            numbers = np.asarray(polygon, np.float64)
        except (TypeError, ValueError):
            return "have polygons that are not lists of numbers"
        if numbers.ndim != 1 or len(numbers) < 6 or len(numbers) % 2:
            return "have polygons of less than three points"
        if not np.isfinite(numbers).all():
            return "have NaN or infinite coordinates"
        xs, ys = numbers[::2], numbers[1::2]
        if (
            width
            and height
            and (min(xs.min(), ys.min()) < -TOLERANCE or xs.max() > width + TOLERANCE or ys.max() > height + TOLERANCE)
        ):
            return "lie outside of their image"
        if abs(np.dot(xs, np.roll(ys, 1)) - np.dot(ys, np.roll(xs, 1))) < 1e-6:
            return "have polygons without area"
    return ""


def _run_length_fault(segmentation: dict, height: int | None, width: int | None) -> str:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, (list, tuple)) or len(size) != 2 or counts is None:
        return "have run lengths without size or counts"
    if height and width and list(size) != [height, width]:
        return "have run lengths of another size than their image"
    try:
        if isinstance(counts, list):
            broken = any(length < 0 for length in counts) or sum(counts) != size[0] * size[1]
        else:
            broken = run_length_problem(segmentation) is not None
    except TypeError:  # what should be numbers or text is neither
        broken = True
    return "have broken run lengths" if broken else ""
