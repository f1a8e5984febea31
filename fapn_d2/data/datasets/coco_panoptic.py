"""COCO panoptic: the label images from which the semantic branch of Panoptic FPN learns.

Detectron2 registers ``coco_2017_{train,val}_panoptic_separated``. ``datasets/prepare_coco_panoptic.py`` makes the label
images that these need from the panoptic PNGs: 0 = any thing, 1..53 = stuff, 255 = unlabelled.
"""

import numpy as np
from detectron2.data import MetadataCatalog

from ..panoptic_png import read_segment_ids
from .conversion import LabelFile

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
