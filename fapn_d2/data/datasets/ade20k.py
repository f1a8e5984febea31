"""ADE20K with the 150 classes of the scene parsing challenge.

Detectron2 registers ``ade20k_sem_seg_{train,val}``. ``datasets/prepare_ade20k.py`` makes the label images that these
need from the labels of ``ADEChallengeData2016``, where classes count from 1 and 0 means unlabelled. This file adds
colours.
"""

import numpy as np
from detectron2.data import MetadataCatalog

from ..reading import read_labels
from .conversion import LabelFile
from .palette import palette

FOLDER = "ADEChallengeData2016"
NUM_CLASSES = 150
IGNORE_LABEL = 255
#: Folder of a split -> number of images in it.
SPLITS = {"training": 20210, "validation": 2000}


def convert(file: LabelFile) -> np.ndarray:
    """(H, W) uint8 classes 0..149 and 255 from a label image with 1..150 and 0.

    Raises:
        ValueError: the label holds other values, as the labels of the full ADE20K do.
    """
    labels = read_labels(str(file.source))
    if labels.max() > NUM_CLASSES:
        raise ValueError(f"it holds the label {labels.max()}; those of the challenge are 0..{NUM_CLASSES}")
    return labels.astype(np.uint8) - np.uint8(1)  # 0 wraps round to 255


def complete_ade20k() -> None:
    """Add colours to Detectron2's ADE20K, unless the metadata have colours already.

    Metadata cannot be changed once they are set, and another project may set its own colours when it is imported. So
    ``add_fapn_config`` calls this function, not the import of fapn_d2.
    """
    for name in ("ade20k_sem_seg_train", "ade20k_sem_seg_val", "ade20k_sem_seg_test"):
        metadata = MetadataCatalog.get(name)
        classes = metadata.get("stuff_classes", ())
        if len(classes) == NUM_CLASSES and not metadata.get("stuff_colors"):
            metadata.set(stuff_colors=palette(NUM_CLASSES))
