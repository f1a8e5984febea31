"""CamVid in the split and the 11 classes of the SegNet tutorial.

Layout: ``<data root>/camvid/{train,val,test}/*.png|jpg``, labels with the same stem in ``{train,val,test}annot/*.png``
(8 bit, 0..10, 11 = void). The splits have 367, 101 and 233 frames. SFNet (Table 10) trains on train and val, and is
scored on test.
"""

import os
from pathlib import Path

from .catalog import advice, register
from .image_label_pairs import pair_files

CLASSES = (
    "Sky",
    "Building",
    "Pole",
    "Road",
    "Pavement",
    "Tree",
    "SignSymbol",
    "Fence",
    "Car",
    "Pedestrian",
    "Bicyclist",
)
COLORS = (
    (128, 128, 128),
    (128, 0, 0),
    (192, 192, 128),
    (128, 64, 128),
    (60, 40, 222),
    (128, 128, 0),
    (192, 128, 128),
    (64, 64, 128),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
)
IGNORE_LABEL = 11
#: Name -> folders of its frames.
SPLITS = {"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "test": ("test",)}

_FOLDER = "camvid"


def load_camvid(root: str | os.PathLike, splits: tuple[str, ...]) -> list[dict]:
    """Records ``{"file_name", "sem_seg_file_name"}`` of the given splits.

    Args:
        root: folder of the data set, e.g. ``datasets/camvid``.
        splits: one or more of the folders "train", "val", "test".

    Raises:
        FileNotFoundError: a folder is missing, or images and labels do not match one to one.
    """
    records = []
    for split in splits:
        pairs = pair_files(Path(root) / split, Path(root) / f"{split}annot", fix=advice("camvid"))
        records += [{"file_name": str(image), "sem_seg_file_name": str(label)} for image, label in pairs]
    return records


def register_camvid() -> None:
    """Register ``camvid_sem_seg_{train,val,trainval,test}``. No file is read before a data set is used."""
    for name, splits in SPLITS.items():
        folders = {"image_root": f"{_FOLDER}/{name}", "sem_seg_root": f"{_FOLDER}/{name}annot"}
        register(
            f"camvid_sem_seg_{name}",
            lambda root, splits=splits: load_camvid(os.path.join(root, _FOLDER), splits),
            paths=folders if splits == (name,) else {},  # "trainval" has no folder of its own
            evaluator_type="sem_seg",
            ignore_label=IGNORE_LABEL,
            stuff_classes=list(CLASSES),
            stuff_colors=[list(c) for c in COLORS],
        )
