"""COCO-Stuff 2017 with 92 classes: the stuff challenge of 2017 (Panoptic FPN, Table 1b).

The images are those of COCO 2017. The classes are the 91 of stuff (COCO ids 92..182) and "other" (183), which stands
for all things. The challenge trained on 40k images. Today's download labels all of train2017 and does not list these
40k, so the training split is all of train2017.

Layout: ``<data root>/coco/{train,val}2017/*.jpg`` and ``coco/stuff_{train,val}2017_pixelmaps/*.png`` as downloaded, and
``coco/stuff_92_{train,val}2017/*.png``, made by ``datasets/prepare_coco_stuff_2017.py`` (255 = unlabelled).
"""

import logging
import os

import numpy as np

from ...messages import some
from ..reading import read_labels
from .catalog import advice, register
from .coco_stuff import CLASSES as CLASSES_10K
from .conversion import LabelFile
from .image_label_pairs import LABEL_SUFFIXES, stems
from .palette import palette

logger = logging.getLogger(__name__)

FOLDER = "coco"
SPLITS = {"train": 118287, "val": 5000}
IGNORE_LABEL = 255
#: COCO ids of the classes; 0 is unlabelled.
FIRST_ID, LAST_ID = 92, 183
#: Their names; position 0 is class 0.
CLASSES = (*CLASSES_10K[182][FIRST_ID - 1 :], "other")


def convert(file: LabelFile) -> np.ndarray:
    """(H, W) uint8 classes 0..91 of a pixel map of the download, 255 where it is 0.

    Raises:
        ValueError: the file holds other ids than 0 and 92..183.
    """
    ids = read_labels(str(file.source)).astype(np.int64)
    wrong = np.setdiff1d(ids, [0, *range(FIRST_ID, LAST_ID + 1)])
    if wrong.size:
        raise ValueError(f"it holds the ids {wrong[:5].tolist()}; allowed are 0 and {FIRST_ID}..{LAST_ID}")
    return np.where(ids == 0, IGNORE_LABEL, ids - FIRST_ID).astype(np.uint8)


def load(image_root: str, label_root: str, *, fix: str) -> list[dict]:
    """Records ``{"file_name", "sem_seg_file_name"}`` of all labels, in the order of their names.

    Images without a label are left out, and the log says how many.

    Raises:
        FileNotFoundError: a folder is absent or empty, or a label has no image; the message ends in ``fix``.
    """
    images = stems(image_root, (".jpg",), fix=fix, what="images")
    labels = stems(label_root, LABEL_SUFFIXES, fix=fix, what="labels")
    if alone := labels.keys() - images.keys():
        raise FileNotFoundError(
            f"{len(alone)} of {len(labels)} labels in {label_root} have no image in {image_root} ({some(alone)}). {fix}"
        )
    if without := len(images) - len(labels):
        logger.info("%d of %d images in %s have no label and are left out", without, len(images), image_root)
    return [{"file_name": str(images[name]), "sem_seg_file_name": str(labels[name])} for name in sorted(labels)]


def register_coco_stuff_2017() -> None:
    """Register ``coco_stuff_2017_sem_seg_{train,val}``. No file is read before a data set is used."""
    for split in SPLITS:
        name = f"coco_stuff_2017_sem_seg_{split}"
        register(
            name,
            lambda root, split=split, name=name: load(
                os.path.join(root, FOLDER, f"{split}2017"),
                os.path.join(root, FOLDER, f"stuff_92_{split}2017"),
                fix=advice(name),
            ),
            paths={"sem_seg_root": f"{FOLDER}/stuff_92_{split}2017"},
            evaluator_type="sem_seg",
            ignore_label=IGNORE_LABEL,
            stuff_classes=list(CLASSES),
            stuff_colors=palette(len(CLASSES)),
        )
