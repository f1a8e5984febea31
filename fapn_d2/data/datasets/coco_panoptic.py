"""COCO panoptic: the label images from which the semantic branch of Panoptic FPN learns.

Detectron2 registers ``coco_2017_{train,val}_panoptic_separated``. ``datasets/prepare_coco_panoptic.py`` makes the label
images that these need from the panoptic PNGs: 0 = any thing, 1..53 = stuff, 255 = unlabelled.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pycocotools.mask
from detectron2.data import MetadataCatalog

from ...files import write_json
from ..panoptic_png import read_segment_ids
from .conversion import LabelFile, write_png

FOLDER = "coco"
IGNORE_LABEL = 255


def stuff_classes() -> dict[int, int]:
    """COCO category id -> class 0..53 for all 133 categories, as in Detectron2's metadata."""
    metadata = MetadataCatalog.get("coco_2017_val_panoptic_separated")
    stuff = {k: v for k, v in metadata.stuff_dataset_id_to_contiguous_id.items() if v != 0}
    return dict.fromkeys(metadata.thing_dataset_id_to_contiguous_id, 0) | stuff


def convert(file: LabelFile) -> np.ndarray:
    """(H, W) uint8 classes from a panoptic PNG; ``file.extra`` maps its segment ids to classes.

    Raises:
        ValueError: the PNG cannot be read, or a segment of its annotation is not in it.
    """
    ids = read_segment_ids(str(file.source))
    table = np.full(int(max(ids.max(), *file.extra, 0)) + 1, IGNORE_LABEL, np.uint8)
    table[list(file.extra)] = list(file.extra.values())
    absent = set(file.extra) - set(np.unique(ids).tolist())
    if absent:
        raise ValueError(f"segment {min(absent)} of its annotation is not in it")
    return table[ids]


def instances(content: dict, folder: Path) -> dict:
    """The things of a panoptic annotation as COCO's instances: one annotation with a run-length mask per segment.

    Args:
        content: the content of a file of COCO's panoptic ground truth.
        folder: the folder of its PNGs.
    """
    things = {category["id"] for category in content["categories"] if category["isthing"]}
    objects = []
    for annotation in content["annotations"]:
        ids = read_segment_ids(str(folder / annotation["file_name"]))
        for segment in annotation["segments_info"]:
            if segment["category_id"] not in things:
                continue
            mask = pycocotools.mask.encode(np.asfortranarray(ids == segment["id"], dtype=np.uint8))
            objects.append(
                {
                    "id": len(objects) + 1,
                    "image_id": annotation["image_id"],
                    "category_id": segment["category_id"],
                    "iscrowd": segment["iscrowd"],
                    "area": int(pycocotools.mask.area(mask)),
                    "bbox": pycocotools.mask.toBbox(mask).tolist(),
                    "segmentation": {"size": mask["size"], "counts": mask["counts"].decode()},
                }
            )
    categories = [category for category in content["categories"] if category["id"] in things]
    return {"images": content["images"], "annotations": objects, "categories": categories}


def write_sample(sample: Path, root: Path) -> tuple[int, int]:
    """Lay out panopticapi's example images as the val2017 of a COCO of their own.

    Args:
        sample: folder with ``panoptic_examples.json``, ``panoptic_examples/`` and ``input_images/``.
        root: folder to write, for ``coco`` below a data root; it must not exist, because a downloaded COCO has files of
            the same names.

    Returns:
        The number of images and the number of objects.

    Raises:
        FileNotFoundError: ``sample`` has no ``panoptic_examples.json``.
        ValueError: ``root`` exists.
    """
    source = sample / "panoptic_examples.json"
    if not source.is_file():
        raise FileNotFoundError(f"{source} is absent; give the folder sample_data of panopticapi")
    if root.exists():
        raise ValueError(f"{root} exists, and may be a downloaded COCO; give a folder that does not exist")
    content = json.loads(source.read_text())
    classes = stuff_classes()
    things = instances(content, sample / "panoptic_examples")
    for name in ("annotations", "val2017", "panoptic_val2017", "panoptic_stuff_val2017"):
        (root / name).mkdir(parents=True)
    for image in content["images"]:
        shutil.copy(sample / "input_images" / image["file_name"], root / "val2017")
    for annotation in content["annotations"]:
        name = annotation["file_name"]
        shutil.copy(sample / "panoptic_examples" / name, root / "panoptic_val2017")
        segments = {segment["id"]: classes[segment["category_id"]] for segment in annotation["segments_info"]}
        target = root / "panoptic_stuff_val2017" / name
        write_png(target, convert(LabelFile(root / "panoptic_val2017" / name, target, None, segments)))
    write_json(root / "annotations" / "panoptic_val2017.json", content, indent=None)
    write_json(root / "annotations" / "instances_val2017.json", things, indent=None)
    return len(content["images"]), len(things["annotations"])
