"""PASCAL Context with its 59 most frequent classes (SFNet, Table 8).

R. Mottaghi et al., "The Role of Context for Object Detection and Semantic Segmentation in the Wild", CVPR 2014: labels
for the 10,103 images of PASCAL VOC 2010. By VOC's own lists, 4,998 are for training and 5,105 for validation. Pixels of
the 400 other classes are not scored.

Layout: ``<data root>/VOCdevkit/VOC2010/`` with VOC's ``JPEGImages/*.jpg`` and ``ImageSets/Main/{train,val}.txt`` and
with the annotations' ``trainval/*.mat``. ``datasets/prepare_pascal_context.py`` makes ``context_59/{train,val}.txt``
and ``context_59/labels/*.png`` (255 = not scored).
"""

import os
from pathlib import Path

import numpy as np

from .catalog import advice, register
from .conversion import LabelFile
from .palette import palette
from .split_lists import load_listed

FOLDER = "VOCdevkit/VOC2010"
SPLITS = {"train": 4998, "val": 5105}
IGNORE_LABEL = 255

#: Number in the annotations (``labels.txt``, 459 names) -> name, in the order of the classes 0..58.
# fmt: off
CLASSES = {
    2: "aeroplane", 9: "bag", 18: "bed", 19: "bedclothes", 22: "bench", 23: "bicycle", 25: "bird", 31: "boat",
    33: "book", 34: "bottle", 44: "building", 45: "bus", 46: "cabinet", 59: "car", 65: "cat", 68: "ceiling",
    72: "chair", 80: "cloth", 85: "computer", 98: "cow", 104: "cup", 105: "curtain", 113: "dog", 115: "door",
    144: "fence", 158: "floor", 159: "flower", 162: "food", 187: "grass", 189: "ground", 207: "horse",
    220: "keyboard", 232: "light", 258: "motorbike", 259: "mountain", 260: "mouse", 284: "person", 295: "plate",
    296: "platform", 308: "pottedplant", 324: "road", 326: "rock", 347: "sheep", 349: "shelves", 354: "sidewalk",
    355: "sign", 360: "sky", 366: "snow", 368: "sofa", 397: "table", 415: "track", 416: "train", 420: "tree",
    424: "truck", 427: "tvmonitor", 440: "wall", 445: "water", 454: "window", 458: "wood",
}
# fmt: on


def check_names(labels_txt: Path) -> None:
    """Compare :data:`CLASSES` with the ``labels.txt`` of the release, lines "2: aeroplane".

    Raises:
        ValueError: a number has another name in the file.
    """
    lines = (line.partition(":") for line in labels_txt.read_text().splitlines() if line.strip())
    names = {int(number): name.strip() for number, _, name in lines}
    for number, name in CLASSES.items():
        if names.get(number) != name:
            raise ValueError(f"{labels_txt}: label {number} is {names.get(number)!r}, not {name!r}: another release?")


def convert(file: LabelFile) -> np.ndarray:
    """(H, W) uint8 classes 0..58 and 255, from a ``.mat`` file with ``LabelMap``."""
    from scipy.io import loadmat

    numbers = loadmat(file.source, variable_names=["LabelMap"])["LabelMap"].astype(np.int64)
    if numbers.min() < 0 or numbers.max() > 459:
        raise ValueError(f"it holds labels {numbers.min()}..{numbers.max()}; allowed are 0..459")
    table = np.full(460, IGNORE_LABEL, np.uint8)
    table[list(CLASSES)] = np.arange(len(CLASSES))
    return table[numbers]


def register_pascal_context() -> None:
    """Register ``pascal_context_59_sem_seg_{train,val}``. No file is read before a data set is used."""
    for split in SPLITS:
        register(
            f"pascal_context_59_sem_seg_{split}",
            lambda root, split=split: load_listed(
                os.path.join(root, FOLDER, "context_59", f"{split}.txt"),
                os.path.join(root, FOLDER, "JPEGImages"),
                os.path.join(root, FOLDER, "context_59", "labels"),
                fix=advice(f"pascal_context_59_sem_seg_{split}"),
            ),
            paths={"sem_seg_root": f"{FOLDER}/context_59/labels"},
            evaluator_type="sem_seg",
            ignore_label=IGNORE_LABEL,
            stuff_classes=list(CLASSES.values()),
            stuff_colors=palette(len(CLASSES)),
        )
