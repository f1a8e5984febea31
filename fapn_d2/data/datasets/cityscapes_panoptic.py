"""Cityscapes with objects, classes of pixels and panoptic ground truth in one record (Panoptic FPN, Section 4.1).

``cityscapes_fine_panoptic_separated_{train,val}`` are built like ``coco_2017_{train,val}_panoptic_separated``.
The panoptic data sets of Cityscapes that Detectron2 registers lack objects, and their classes of things are train ids.
"""

import functools
import json
import os
from pathlib import Path

import numpy as np
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES
from detectron2.structures import BoxMode
from detectron2.utils import comm
from pycocotools import mask as run_lengths

from ...messages import some
from ..reading import read_labels
from .catalog import advice, register
from .cityscapes import FOLDER, IGNORE_LABEL
from .conversion import in_parallel

SPLITS = ("train", "val")
_PANOPTIC = "_gtFine_panoptic.png"


def metadata() -> dict:
    """Names, colours and ids of the classes.

    Objects have the classes 0..7 in the order of the train ids. The semantic labels have all 19 train ids; of these,
    0..10 are stuff.
    """
    classes = sorted(CITYSCAPES_CATEGORIES, key=lambda category: category["trainId"])
    things = [category for category in classes if category["isthing"]]
    return {
        "thing_classes": [category["name"] for category in things],
        "thing_colors": [list(category["color"]) for category in things],
        "thing_dataset_id_to_contiguous_id": {category["id"]: n for n, category in enumerate(things)},
        "stuff_classes": [category["name"] for category in classes],
        "stuff_colors": [list(category["color"]) for category in classes],
        "stuff_dataset_id_to_contiguous_id": {c["id"]: c["trainId"] for c in classes if not c["isthing"]},
        "ignore_label": IGNORE_LABEL,
        "label_divisor": 1000,
        "evaluator_type": "cityscapes_panoptic_seg",
    }


def load_panoptic_records(root: str, split: str, *, workers: int | None = None) -> list[dict]:
    """The records of a split, in the order of its panoptic annotations.

    A record has "file_name", "height", "width", "image_id" (``<city>_<sequence>_<frame>``), "annotations" (objects with
    masks as run lengths; groups are crowds), "sem_seg_file_name" (train ids), "pan_seg_file_name" and "segments_info"
    (with the category ids of Cityscapes).

    Args:
        root: the data root.
        split: "train" or "val".
        workers: number of processes that read the masks; None: the cores of this process.

    Raises:
        FileNotFoundError: annotations, images or labels are absent.
    """
    folder = Path(root, FOLDER)
    fix = advice(f"cityscapes_fine_panoptic_separated_{split}")
    listed = folder / "gtFine" / f"cityscapes_panoptic_{split}.json"
    if not listed.is_file():
        raise FileNotFoundError(f"the annotations {listed} are absent. {fix}")
    categories = metadata()["thing_dataset_id_to_contiguous_id"]
    records = [_record(annotation, folder, split) for annotation in json.loads(listed.read_text())["annotations"]]
    for key in ("file_name", "_instances", "sem_seg_file_name", "pan_seg_file_name"):
        if absent := [record[key] for record in records if not os.path.isfile(record[key])]:
            raise FileNotFoundError(f"{len(absent)} of {len(records)} files are absent ({some(absent)}). {fix}")
    if workers is None:
        workers = max(1, min(16, (os.cpu_count() or 1) // comm.get_world_size())) if len(records) > 100 else 0
    with_objects = functools.partial(_with_objects, categories=categories)
    return in_parallel(with_objects, records, description=f"objects of Cityscapes {split}", workers=workers)


def _record(annotation: dict, folder: Path, split: str) -> dict:
    stem = annotation["file_name"].removesuffix(_PANOPTIC)
    city = stem.split("_")[0]
    labels = str(folder / "gtFine" / split / city / f"{stem}_gtFine")
    return {
        "file_name": str(folder / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png"),
        "image_id": annotation["image_id"],
        "sem_seg_file_name": f"{labels}_labelTrainIds.png",
        "pan_seg_file_name": str(folder / "gtFine" / f"cityscapes_panoptic_{split}" / annotation["file_name"]),
        "segments_info": annotation["segments_info"],
        "_instances": f"{labels}_instanceIds.png",
    }


def _with_objects(record: dict, *, categories: dict[int, int]) -> dict:
    """The record with its size and objects; ``*_instanceIds.png`` has the masks, under the ids of the segments."""
    record = dict(record)
    ids = read_labels(record.pop("_instances"))
    objects = []
    for segment in record["segments_info"]:
        x, y, w, h = segment["bbox"]
        # Without width or height in Detectron2's boxes, whose corners are pixels.
        if segment["category_id"] not in categories or w < 2 or h < 2:
            continue
        mask = run_lengths.encode(np.asfortranarray(ids == segment["id"], dtype=np.uint8))
        objects.append(
            {
                "bbox": [x, y, w, h],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": categories[segment["category_id"]],
                "iscrowd": segment["iscrowd"],
                "segmentation": mask,
            }
        )
    return {**record, "height": ids.shape[0], "width": ids.shape[1], "annotations": objects}


def register_cityscapes_panoptic() -> None:
    """Register ``cityscapes_fine_panoptic_separated_{train,val}``. No file is read before a data set is used."""
    for split in SPLITS:
        register(
            f"cityscapes_fine_panoptic_separated_{split}",
            functools.partial(load_panoptic_records, split=split),
            paths={
                "image_root": f"{FOLDER}/leftImg8bit/{split}",
                "gt_dir": f"{FOLDER}/gtFine/{split}",
                "panoptic_root": f"{FOLDER}/gtFine/cityscapes_panoptic_{split}",
                "panoptic_json": f"{FOLDER}/gtFine/cityscapes_panoptic_{split}.json",
            },
            **metadata(),
        )
