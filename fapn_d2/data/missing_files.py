"""Check that the files of a data set exist where its metadata say, without opening an image."""

import json
import mmap
import os
import re
from collections.abc import Iterable

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..messages import some
from .datasets.catalog import advice
from .datasets.image_label_pairs import pair_files
from .datasets.unlabelled import image_list, unlabelled

_PLACES = ("image_root", "sem_seg_root", "json_file", "panoptic_json", "panoptic_root", "image_dir", "gt_dir")
_FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')


def check_files(name: str) -> None:
    """Compare the files that the metadata of ``name`` point to with the files on disk.

    What is checked:

    - Data sets in COCO's format: each image, semantic label and panoptic PNG that the JSON files mention.
    - Folders of images and labels: each image has one label and each label has one image.
    - Cityscapes: the same, city by city.
    - Other data sets: the files of the records.

    Paths that are not local ("s3://...") are not checked.

    Raises:
        FileNotFoundError: a file or folder is missing, empty or incomplete; the message names it, counts the missing
            files, and says how to fix it.
        ValueError: a file of annotations is incomplete.
    """
    metadata = MetadataCatalog.get(name)
    places = {key: str(metadata.get(key)) for key in _PLACES if metadata.get(key)}
    if any("://" in place for place in places.values()):
        return
    fix = advice(name)
    if unlabelled(name):
        _check_records(image_list(name), fix)
    elif places.keys() >= {"image_dir", "gt_dir"}:
        _check_cities(places["image_dir"], places["gt_dir"], metadata.get("evaluator_type"), fix)
    elif places.keys() & {"json_file", "panoptic_json"}:
        _check_json(places, fix)
    elif places.keys() >= {"image_root", "sem_seg_root"}:
        pair_files(places["image_root"], places["sem_seg_root"], fix=fix)
    else:
        _check_records(DatasetCatalog.get(name), fix)


def file_names(json_file: str) -> list[str]:
    """Every "file_name" in a JSON file, in order.

    The names are found by a search through the bytes. Parsing the 450 MB of COCO's training annotations would take half
    a minute, and the loader parses them anyway.

    Raises:
        ValueError: the file does not end as JSON does.
    """
    with open(json_file, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(size - 64, 0))
        if not file.read().rstrip().endswith((b"}", b"]")):
            raise ValueError(f"the annotations {json_file} are cut short ({size} bytes); fetch them again")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return [json.loads(quoted) for quoted in _FILE_NAME.findall(content)]


def _check_json(places: dict[str, str], fix: str) -> None:
    for key in ("json_file", "panoptic_json"):
        if key in places and not os.path.isfile(places[key]):
            raise FileNotFoundError(f"the annotations {places[key]} are absent. {fix}")
    images = file_names(places["json_file"]) if "json_file" in places else []
    if images and "image_root" in places:
        _check_listed(places["image_root"], images, "images", places["json_file"], fix)
        if "sem_seg_root" in places:
            labels = [f"{os.path.splitext(image)[0]}.png" for image in images]
            _check_listed(places["sem_seg_root"], labels, "semantic labels", places["json_file"], fix)
    if "panoptic_json" in places and "panoptic_root" in places:
        # The file also names the images: JPEGs in COCO, these PNGs in Cityscapes.
        names = file_names(places["panoptic_json"])
        labels = [n for n in names if n.endswith(".png") and not n.endswith("_leftImg8bit.png")]
        _check_listed(places["panoptic_root"], labels, "panoptic labels", places["panoptic_json"], fix)


def _check_listed(root: str, names: Iterable[str], what: str, source: str, fix: str) -> None:
    """Raise an error if one of ``names``, which ``source`` lists, is not a file below ``root``."""
    if not os.path.isdir(root):
        raise FileNotFoundError(f"folder {root} is absent; expected the {what} of {source} in it. {fix}")
    names = set(names)
    if missing := _missing(root, names):
        raise FileNotFoundError(
            f"{len(missing)} of the {len(names)} {what} that {source} mentions are not in {root} ({some(missing)}). "
            f"{fix}"
        )


def _missing(root: str, names: Iterable[str]) -> list[str]:
    """Those of ``names`` that do not exist below ``root``. Lists each folder once, instead of one look-up per file."""
    present: dict[str, set[str]] = {}
    missing = []
    for name in names:
        folder, base = os.path.split(os.path.join(root, name))
        if folder not in present:
            present[folder] = set(os.listdir(folder or ".")) if os.path.isdir(folder or ".") else set()
        if base not in present[folder]:
            missing.append(name)
    return missing


def _check_cities(image_dir: str, gt_dir: str, evaluator: str | None, fix: str) -> None:
    # What Detectron2 reads: train ids for regions, polygons for objects.
    label = "_gtFine_labelTrainIds.png" if evaluator == "cityscapes_sem_seg" else "_gtFine_polygons.json"
    for folder in (image_dir, gt_dir):
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"folder {folder} is absent; expected a folder for each city in it. {fix}")
    cities = sorted(entry.name for entry in os.scandir(image_dir) if entry.is_dir())
    if not cities:
        raise FileNotFoundError(f"folder {image_dir} holds no folder of a city. {fix}")
    for city in cities:
        pair_files(
            os.path.join(image_dir, city),
            os.path.join(gt_dir, city),
            fix=fix,
            image_suffixes=("_leftImg8bit.png",),
            label_suffixes=(label,),
        )


def _check_records(records: list[dict], fix: str) -> None:
    for key, what in (("file_name", "images"), ("sem_seg_file_name", "semantic labels")):
        files = {record[key] for record in records if "://" not in record.get(key, "://")}
        if missing := _missing("", files):
            raise FileNotFoundError(f"{len(missing)} of its {len(files)} {what} are absent ({some(missing)}). {fix}")
