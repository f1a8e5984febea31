"""COCO-Stuff-10K with 171 and with 182 classes (FaPN, Tables 7 and 8).

H. Caesar et al., "COCO-Stuff: Thing and Stuff Classes in Context", CVPR 2018. The 10K release has 9,000 images for
training and 1,000 for testing, listed in its ``imageLists``. FaPN's text names 182 classes, 91 of things and 91 of
stuff. Of the things, 11 were never labelled. The configs of MaskFormer, on which Table 7 builds, use the other 171.

Layout: ``<data root>/coco_stuff_10k/{images/*.jpg, annotations/*.mat, imageLists/{train,test}.txt}`` as downloaded, and
``labels_{171,182}/*.png``, made by ``datasets/prepare_coco_stuff_10k.py`` (255 = unlabelled).
"""

import os
from pathlib import Path

import numpy as np

from .catalog import advice, register
from .conversion import LabelFile
from .palette import palette
from .split_lists import load_listed

FOLDER = "coco_stuff_10k"
SPLITS = {"train": 9000, "test": 1000}
IGNORE_LABEL = 255

# fmt: off
_THINGS = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "street sign", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep",
    "cow", "elephant", "bear", "zebra", "giraffe", "hat", "backpack", "umbrella", "shoe", "eye glasses",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat",
    "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle", "plate", "wine glass", "cup", "fork",
    "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza",
    "donut", "cake", "chair", "couch", "potted plant", "bed", "mirror", "dining table", "window", "desk", "toilet",
    "door", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "blender", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
    "hair brush",
)
_STUFF = (
    "banner", "blanket", "branch", "bridge", "building-other", "bush", "cabinet", "cage", "cardboard", "carpet",
    "ceiling-other", "ceiling-tile", "cloth", "clothes", "clouds", "counter", "cupboard", "curtain", "desk-stuff",
    "dirt", "door-stuff", "fence", "floor-marble", "floor-other", "floor-stone", "floor-tile", "floor-wood",
    "flower", "fog", "food-other", "fruit", "furniture-other", "grass", "gravel", "ground-other", "hill", "house",
    "leaves", "light", "mat", "metal", "mirror-stuff", "moss", "mountain", "mud", "napkin", "net", "paper",
    "pavement", "pillow", "plant-other", "plastic", "platform", "playingfield", "railing", "railroad", "river",
    "road", "rock", "roof", "rug", "salad", "sand", "sea", "shelf", "sky-other", "skyscraper", "snow",
    "solid-other", "stairs", "stone", "straw", "structural-other", "table", "tent", "textile-other", "towel",
    "tree", "vegetable", "wall-brick", "wall-concrete", "wall-other", "wall-panel", "wall-stone", "wall-tile",
    "wall-wood", "water-other", "waterdrops", "window-blind", "window-other", "wood",
)
# fmt: on

#: Things that COCO has names for, but never labelled.
NEVER_LABELLED = {
    *("street sign", "hat", "shoe", "eye glasses", "plate", "mirror"),
    *("window", "desk", "door", "blender", "hair brush"),
}
#: Number of classes -> their names; position 0 is class 0.
CLASSES = {182: _THINGS + _STUFF, 171: tuple(n for n in _THINGS if n not in NEVER_LABELLED) + _STUFF}


def read_annotation(path: Path) -> np.ndarray:
    """(H, W) COCO ids of a ``.mat`` file: 0 unlabelled, 1..91 things, 92..182 stuff.

    Version 1.1 of the release holds these ids. Version 1.0 holds 1 for unlabelled and 2..172 for the classes that were
    labelled; its files are in the format of MATLAB 7.3, and reading them needs the package h5py.

    Raises:
        ValueError: the file is of neither version, or h5py is needed and not installed.
    """
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=["S", "names"])
        ids, names = content["S"], content["names"].size
    except NotImplementedError:  # a MATLAB 7.3 file is an HDF5 file
        ids, names = _read_hdf5(path)
    ids = ids.astype(np.int64)
    if names == len(CLASSES[182]):
        first, last = 0, 182
    elif names == len(CLASSES[171]) + 1:
        first, last = 1, 172
    else:
        raise ValueError(f"it names {names} classes; version 1.1 names 182, version 1.0 names 172")
    if ids.min() < first or ids.max() > last:
        raise ValueError(f"it holds labels {ids.min()}..{ids.max()}; with {names} names allowed are {first}..{last}")
    return ids if names == 182 else np.concatenate([[0, 0], labelled_ids()])[ids]


def _read_hdf5(path: Path) -> tuple[np.ndarray, int]:
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ValueError("a MATLAB 7.3 file (version 1.0 of the release) needs h5py: pip install h5py") from error
    with h5py.File(path) as file:
        return file["S"][()].T, file["names"].size  # MATLAB stores columns first


def labelled_ids() -> np.ndarray:
    """The 171 ids of the classes that were labelled, in order."""
    return np.array([i for i, name in enumerate(CLASSES[182], start=1) if name not in NEVER_LABELLED])


def convert(file: LabelFile) -> np.ndarray:
    """(H, W) uint8 classes; ``file.extra`` is their number, 171 or 182.

    Raises:
        ValueError: see :func:`read_annotation`; or, with 171 classes, the file holds a class that was never labelled.
    """
    kept = labelled_ids() if file.extra == 171 else np.arange(1, 183)
    ids = read_annotation(file.source)
    unknown = np.setdiff1d(ids, [0, *kept])
    if unknown.size:
        raise ValueError(f"it holds the class {CLASSES[182][unknown[0] - 1]!r}, which was never labelled")
    table = np.full(183, IGNORE_LABEL, np.uint8)
    table[kept] = np.arange(len(kept))
    return table[ids]


def register_coco_stuff() -> None:
    """Register ``coco_stuff_10k_{171,182}_sem_seg_{train,test}``. No file is read before a data set is used."""
    for number, classes in CLASSES.items():
        for split in SPLITS:
            register(
                f"coco_stuff_10k_{number}_sem_seg_{split}",
                lambda root, number=number, split=split: load_listed(
                    os.path.join(root, FOLDER, "imageLists", f"{split}.txt"),
                    os.path.join(root, FOLDER, "images"),
                    os.path.join(root, FOLDER, f"labels_{number}"),
                    fix=advice(f"coco_stuff_10k_{number}_sem_seg_{split}"),
                ),
                paths={"sem_seg_root": f"{FOLDER}/labels_{number}"},
                evaluator_type="sem_seg",
                ignore_label=IGNORE_LABEL,
                stuff_classes=list(classes),
                stuff_colors=palette(number),
            )
