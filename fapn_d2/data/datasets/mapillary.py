"""Mapillary Vistas with the 65 classes of its version 1.2, on which SFNet's fastest row is pretrained (Table 6).

G. Neuhold et al., "The Mapillary Vistas Dataset for Semantic Understanding of Street Scenes", ICCV 2017: 18,000, 2,000
and 5,000 photographs of streets, with 9 million pixels each on average. The released labels are used unchanged: palette
images whose indices are classes, 65 = unlabelled. Version 2.0 has 124 other classes; its download also contains the
labels of version 1.2.

Layout: ``<data root>/mapillary_vistas/{training,validation}/images/*.jpg`` with labels of the same stem beside
``images``, in ``labels/*.png`` (downloads of version 1.2) or ``v1.2/labels/*.png`` (downloads of version 2.0).
"""

import json
import os
from pathlib import Path

from detectron2.data import DatasetCatalog

from .catalog import advice, register
from .image_label_pairs import pair_files

FOLDER = "mapillary_vistas"
#: Folder of a split -> (its name here, number of its images).
SPLITS = {"training": ("train", 18000), "validation": ("val", 2000)}
IGNORE_LABEL = 65

#: Name in the release -> colour, in the order of the classes 0..64.
# fmt: off
COLORS = {
    "animal--bird": (165, 42, 42), "animal--ground-animal": (0, 192, 0),
    "construction--barrier--curb": (196, 196, 196), "construction--barrier--fence": (190, 153, 153),
    "construction--barrier--guard-rail": (180, 165, 180), "construction--barrier--other-barrier": (90, 120, 150),
    "construction--barrier--wall": (102, 102, 156), "construction--flat--bike-lane": (128, 64, 255),
    "construction--flat--crosswalk-plain": (140, 140, 200), "construction--flat--curb-cut": (170, 170, 170),
    "construction--flat--parking": (250, 170, 160), "construction--flat--pedestrian-area": (96, 96, 96),
    "construction--flat--rail-track": (230, 150, 140), "construction--flat--road": (128, 64, 128),
    "construction--flat--service-lane": (110, 110, 110), "construction--flat--sidewalk": (244, 35, 232),
    "construction--structure--bridge": (150, 100, 100), "construction--structure--building": (70, 70, 70),
    "construction--structure--tunnel": (150, 120, 90), "human--person": (220, 20, 60),
    "human--rider--bicyclist": (255, 0, 0), "human--rider--motorcyclist": (255, 0, 100),
    "human--rider--other-rider": (255, 0, 200), "marking--crosswalk-zebra": (200, 128, 128),
    "marking--general": (255, 255, 255), "nature--mountain": (64, 170, 64), "nature--sand": (230, 160, 50),
    "nature--sky": (70, 130, 180), "nature--snow": (190, 255, 255), "nature--terrain": (152, 251, 152),
    "nature--vegetation": (107, 142, 35), "nature--water": (0, 170, 30), "object--banner": (255, 255, 128),
    "object--bench": (250, 0, 30), "object--bike-rack": (100, 140, 180), "object--billboard": (220, 220, 220),
    "object--catch-basin": (220, 128, 128), "object--cctv-camera": (222, 40, 40),
    "object--fire-hydrant": (100, 170, 30), "object--junction-box": (40, 40, 40), "object--mailbox": (33, 33, 33),
    "object--manhole": (100, 128, 160), "object--phone-booth": (142, 0, 0), "object--pothole": (70, 100, 150),
    "object--street-light": (210, 170, 100), "object--support--pole": (153, 153, 153),
    "object--support--traffic-sign-frame": (128, 128, 128), "object--support--utility-pole": (0, 0, 80),
    "object--traffic-light": (250, 170, 30), "object--traffic-sign--back": (192, 192, 192),
    "object--traffic-sign--front": (220, 220, 0), "object--trash-can": (140, 140, 20),
    "object--vehicle--bicycle": (119, 11, 32), "object--vehicle--boat": (150, 0, 255),
    "object--vehicle--bus": (0, 60, 100), "object--vehicle--car": (0, 0, 142), "object--vehicle--caravan": (0, 0, 90),
    "object--vehicle--motorcycle": (0, 0, 230), "object--vehicle--on-rails": (0, 80, 100),
    "object--vehicle--other-vehicle": (128, 64, 64), "object--vehicle--trailer": (0, 0, 110),
    "object--vehicle--truck": (0, 0, 70), "object--vehicle--wheeled-slow": (0, 0, 192),
    "void--car-mount": (32, 32, 32), "void--ego-vehicle": (120, 10, 10),
}
# fmt: on


def label_folder(root: str | os.PathLike, split: str) -> Path:
    """The folder with the labels of version 1.2, for downloads of either version.

    Args:
        root: folder of the data set, e.g. ``datasets/mapillary_vistas``.
        split: "training" or "validation".
    """
    beside_newer = Path(root) / split / "v1.2" / "labels"
    return beside_newer if beside_newer.is_dir() else Path(root) / split / "labels"


def load_mapillary(root: str | os.PathLike, split: str) -> list[dict]:
    """Records ``{"file_name", "sem_seg_file_name"}`` of a split.

    Args:
        root: folder of the data set, e.g. ``datasets/mapillary_vistas``.
        split: "training" or "validation".

    Raises:
        FileNotFoundError: a folder is missing, or images and labels do not match one to one.
    """
    pairs = pair_files(Path(root) / split / "images", label_folder(root, split), fix=advice("mapillary_vistas"))
    return [{"file_name": str(image), "sem_seg_file_name": str(label)} for image, label in pairs]


def check_names(config_json: Path) -> None:
    """Compare :data:`COLORS` with the classes in the ``config.json`` or ``config_v1.2.json`` of the release.

    Raises:
        ValueError: the file is not such a list, or its classes are different, as in version 2.0.
    """
    try:
        names = [label["name"] for label in json.loads(config_json.read_text())["labels"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{config_json} is not a list of classes: {type(error).__name__}: {error}") from error
    for number, (theirs, ours) in enumerate(zip(names, COLORS)):
        if theirs != ours:
            raise ValueError(f"{config_json}: class {number} is {theirs!r}, in version 1.2 it is {ours!r}")
    if len(names) != len(COLORS) + 1:
        raise ValueError(
            f"{config_json} has {len(names)} classes, version 1.2 {len(COLORS)} and one for what is unlabelled"
        )


METADATA = {
    "evaluator_type": "sem_seg",
    "ignore_label": IGNORE_LABEL,
    "stuff_classes": list(COLORS),
    "stuff_colors": [list(color) for color in COLORS.values()],
}


def register_mapillary() -> None:
    """Register ``mapillary_vistas_sem_seg_{train,val}``. No file is read before a data set is used.

    MaskFormer and Mask2Former register the same names when they are imported, and fail if a name is registered. So
    ``add_fapn_config`` calls this function, not the import of fapn_d2. It does nothing for a registered name.
    """
    for split, (name, _) in SPLITS.items():
        if f"mapillary_vistas_sem_seg_{name}" in DatasetCatalog:
            continue
        register(
            f"mapillary_vistas_sem_seg_{name}",
            lambda root, split=split: load_mapillary(os.path.join(root, FOLDER), split),
            paths={"image_root": f"{FOLDER}/{split}/images"},
            **METADATA,
        )
