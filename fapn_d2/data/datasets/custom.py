"""Users' own data sets, described in the config under DATASETS.CUSTOM.

::

    DATASETS:
      CUSTOM:
        mine_train: {KIND: objects, IMAGES: mine/images, ANNOTATIONS: mine/train.json}
      TRAIN: [mine_train]

:data:`KINDS` lists the kinds and their fields. ``load_config`` registers the data sets and completes the class names in
the config, so that a saved config does not need the data any more. ``data/class_numbers.py`` sets the heads' numbers of
classes.
"""

import logging
import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ...messages import nearest, some
from .catalog import data_root, register, registered_here, unregister
from .coco_json import categories, load_objects
from .image_label_pairs import IMAGE_SUFFIXES, LABEL_SUFFIXES, pair_files
from .split_lists import load_listed, read_list

logger = logging.getLogger(__name__)

SECTION = "DATASETS.CUSTOM"
#: Name of the semantic class 0 of panoptic data: every pixel of an object. Stuff has the classes from 1 on.
THINGS_AS_REGION = "things"
_PATHS = ("IMAGES", "LABELS", "ANNOTATIONS", "OBJECTS", "REGIONS", "LIST")
_NAMES = ("CLASSES", "THINGS", "STUFF")


@dataclass(frozen=True)
class Kind:
    """What a kind of data set is made of: fields that it needs, fields that it may have, and its labels."""

    needs: tuple[str, ...]
    may_have: tuple[str, ...]
    labels: frozenset[str]


#: KIND -> its fields. Paths are absolute or below the data root (``$DETECTRON2_DATASETS``, else ``datasets``).
#:
#: - "objects": folder IMAGES and the JSON file ANNOTATIONS in COCO's format. CLASSES default to its "categories".
#: - "regions": folders IMAGES and LABELS with files of the same names; labels are PNGs of class numbers, CLASSES their
#:   names. LIST is a text file with the names of this split, without endings. IGNORE_VALUE (255) marks pixels without
#:   a class. IMAGE_SUFFIX and LABEL_SUFFIX are the ends of the names behind what both have in common.
#: - "cityscapes": regions in one folder per city below IMAGES and LABELS. The suffixes default to Cityscapes' own.
#: - "panoptic": COCO's panoptic format. ANNOTATIONS is the panoptic JSON file, LABELS the folder of panoptic PNGs,
#:   OBJECTS the JSON file of the objects, REGIONS the folder of semantic PNGs: 0 for all objects, then stuff in the
#:   order of ids. THINGS and STUFF are class names and default to those in ANNOTATIONS.
KINDS = {
    "objects": Kind(("IMAGES", "ANNOTATIONS"), ("CLASSES", "COLORS"), frozenset({"objects"})),
    "regions": Kind(
        ("IMAGES", "LABELS", "CLASSES"),
        ("IGNORE_VALUE", "LIST", "IMAGE_SUFFIX", "LABEL_SUFFIX", "COLORS"),
        frozenset({"regions"}),
    ),
    "cityscapes": Kind(
        ("IMAGES", "LABELS", "CLASSES"),
        ("IGNORE_VALUE", "IMAGE_SUFFIX", "LABEL_SUFFIX", "COLORS"),
        frozenset({"regions"}),
    ),
    "panoptic": Kind(
        ("IMAGES", "ANNOTATIONS", "LABELS", "OBJECTS", "REGIONS"),
        ("IGNORE_VALUE", "THINGS", "STUFF"),
        frozenset({"objects", "regions"}),
    ),
}

#: Name -> description of what is registered now.
_registered: dict[str, dict[str, Any]] = {}


def register_custom(cfg: CfgNode) -> None:
    """Register every data set under DATASETS.CUSTOM.

    A second call with the same description does nothing. A data set whose description has changed is replaced.

    Args:
        cfg: a config, which may be frozen. Class names that are not stated are read from the annotations.

    Raises:
        ValueError: a description is wrong, a name belongs to another data set, or the data sets in DATASETS.TRAIN and
            DATASETS.TEST have different classes.
        FileNotFoundError: class names are to be read from a file that does not exist.
    """
    for name in cfg.DATASETS.get("CUSTOM", {}):
        description = _described(cfg, name)
        if _registered.get(name) == description and registered_here(name):
            continue
        if name in DatasetCatalog and not (name in _registered and registered_here(name)):
            raise ValueError(f"{SECTION}.{name}: a data set of this name exists already; choose another name")
        unregister(name)
        MAKERS[description["KIND"]](name, description)
        _registered[name] = description
    _compare_classes(cfg)


def complete_config(cfg: CfgNode) -> None:
    """Write the class names into DATASETS.CUSTOM that its descriptions leave to the annotations. ``cfg`` is not frozen.

    Raises:
        ValueError, FileNotFoundError: see :func:`register_custom`.
    """
    for name, node in cfg.DATASETS.get("CUSTOM", {}).items():
        description = _described(cfg, name)
        node.update({key: description[key] for key in _NAMES if key in description})


def check_custom(name: str) -> None:
    """Compare the class names of a data set under DATASETS.CUSTOM with those in its annotations.

    Raises:
        ValueError: they differ.
        FileNotFoundError: the annotations do not exist.
    """
    description = _registered.get(name, {})
    if not registered_here(name):
        return
    if description.get("KIND") == "objects":
        _same_names(name, "CLASSES", description["CLASSES"], _names(categories(_path(description["ANNOTATIONS"]))))
    elif description.get("KIND") == "panoptic":
        things, stuff = _panoptic_names(_path(description["ANNOTATIONS"]))
        _same_names(name, "THINGS", description["THINGS"], things)
        _same_names(name, "STUFF", description["STUFF"], stuff)
        _same_names(name, "THINGS", description["THINGS"], _names(categories(_path(description["OBJECTS"]))))


def _described(cfg: CfgNode, name: str) -> dict[str, Any]:
    """The checked description of a data set, with class names and defaults filled in."""
    here, node = f"{SECTION}.{name}", cfg.DATASETS.CUSTOM[name]
    if not re.fullmatch(r"\w[\w-]*", name):
        raise ValueError(f"{here}: the name of a data set has letters, digits, '_' and '-' only")
    if not isinstance(node, dict) or "KIND" not in node:
        raise ValueError(f"{here} needs a KIND: {', '.join(KINDS)}")
    if node["KIND"] not in KINDS:
        hint = nearest(str(node["KIND"]), KINDS)
        raise ValueError(f"{here}.KIND is {node['KIND']!r}; allowed are {', '.join(KINDS)}{hint}")
    kind = KINDS[node["KIND"]]
    fields = (*kind.needs, *kind.may_have)
    for field in node:
        if field != "KIND" and field not in fields:
            hint = nearest(str(field).upper(), fields)
            raise ValueError(f"{here} has no field {field}; KIND {node['KIND']} has {', '.join(fields)}{hint}")
    if missing := [field for field in kind.needs if not node.get(field)]:
        raise ValueError(f"{here} of KIND {node['KIND']} lacks {', '.join(missing)}")
    description = {key: list(value) if isinstance(value, tuple) else value for key, value in node.items()}
    for field in _PATHS:
        if not isinstance(description.get(field, ""), str):
            raise ValueError(f"{here}.{field} must be a path, got {description[field]!r}")
    _fill_in_names(here, description)
    for field in _NAMES:
        _check_class_names(f"{here}.{field}", description.get(field))
    ignored = description.get("IGNORE_VALUE", 255)
    if isinstance(ignored, bool) or not isinstance(ignored, int):
        raise ValueError(f"{here}.IGNORE_VALUE must be a whole number, got {ignored!r}")
    if "CLASSES" in description and 0 <= ignored < len(description["CLASSES"]) and "regions" in kind.labels:
        raise ValueError(
            f"{here}.IGNORE_VALUE {ignored} is the number of the class {description['CLASSES'][ignored]!r}; "
            f"the {len(description['CLASSES'])} CLASSES are the label values 0 to {len(description['CLASSES']) - 1}"
        )
    colors = description.get("COLORS")
    if colors is not None and len(colors) != len(description["CLASSES"]):
        raise ValueError(f"{here} has {len(colors)} COLORS for {len(description['CLASSES'])} CLASSES")
    return description


def _fill_in_names(here: str, description: dict[str, Any]) -> None:
    """Class names from a text file, or from the annotations where none are stated."""
    for field in _NAMES:
        if isinstance(description.get(field), str):
            description[field] = read_list(_path(description[field]), fix=f"{here}.{field} names it.")
    try:
        if description["KIND"] == "objects" and not description.get("CLASSES"):
            description["CLASSES"] = _names(categories(_path(description["ANNOTATIONS"])))
        elif description["KIND"] == "panoptic" and not (description.get("THINGS") and description.get("STUFF")):
            description["THINGS"], description["STUFF"] = _panoptic_names(_path(description["ANNOTATIONS"]))
    except (FileNotFoundError, ValueError) as error:
        hint = f" (paths are below {os.path.abspath(data_root())})" if isinstance(error, FileNotFoundError) else ""
        raise type(error)(f"{here}.ANNOTATIONS: {error}{hint}") from error


def _check_class_names(here: str, names: Any) -> None:
    if names is None:
        return
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{here} must be a list of class names or the path of a text file of them, got {names!r}")
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{here} holds {some(twice)} twice")


def _compare_classes(cfg: CfgNode) -> None:
    """The data sets in use must have the same classes in the same order, or training and scores mean different ones."""
    first: dict[str, tuple[str, list[str]]] = {}
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if name not in cfg.DATASETS.get("CUSTOM", {}):
            continue
        for kind, names in class_names(name).items():
            other, expected = first.setdefault(kind, (name, names))
            if names != expected:
                n = next((n for n, (a, b) in enumerate(zip(names, expected)) if a != b), min(len(names), len(expected)))
                a, b = (repr(list_[n]) if n < len(list_) else "absent" for list_ in (expected, names))
                raise ValueError(f"{SECTION}: class {n} of {kind} is {a} in {other} and {b} in {name}")


def class_names(name: str) -> dict[str, list[str]]:
    """Kind of labels ("objects", "regions") -> class names of a registered data set."""
    metadata = MetadataCatalog.get(name)
    found = {"objects": metadata.get("thing_classes"), "regions": metadata.get("stuff_classes")}
    return {kind: list(names) for kind, names in found.items() if names}


def _names(found: list[dict]) -> list[str]:
    return [category["name"] for category in found]


def _panoptic_names(path: str) -> tuple[list[str], list[str]]:
    found = categories(path)
    if any("isthing" not in category for category in found):
        raise ValueError(f'{path}: a class lacks "isthing", which panoptic annotations have')
    return _names([c for c in found if c["isthing"]]), _names([c for c in found if not c["isthing"]])


def _same_names(name: str, field: str, stated: Collection[str], found: Collection[str]) -> None:
    if list(stated) != list(found):
        raise ValueError(
            f"{SECTION}.{name}.{field} has {len(stated)} classes ({some(stated, sort=False)}), the annotations have "
            f"{len(found)} ({some(found, sort=False)}); leave {field} out to use those of the annotations"
        )


def _path(path: str) -> str:
    return os.path.join(data_root(), os.path.expanduser(path))


def _register(name: str, description: dict, load: Callable[[], list[dict]], paths: dict[str, str], **metadata) -> None:
    labels = KINDS[description["KIND"]].labels
    if "regions" in labels:
        metadata["ignore_label"] = description.get("IGNORE_VALUE", 255)
    if colors := description.get("COLORS"):
        metadata["thing_colors" if "objects" in labels else "stuff_colors"] = [list(color) for color in colors]
    note = f"Its paths stand under {SECTION}.{name} in the config."
    places = {key: os.path.expanduser(description[field]) for key, field in paths.items()}
    register(name, lambda root: load(), paths=places, note=note, **metadata)


def _register_objects(name: str, description: dict) -> None:
    def load() -> list[dict]:
        check_custom(name)
        return load_objects(_path(description["ANNOTATIONS"]), _path(description["IMAGES"]), name)

    paths = {"json_file": "ANNOTATIONS", "image_root": "IMAGES"}
    _register(name, description, load, paths, evaluator_type="coco", thing_classes=list(description["CLASSES"]))


def _register_regions(name: str, description: dict) -> None:
    nested = description["KIND"] == "cityscapes"
    endings = {
        "image_suffixes": (description.get("IMAGE_SUFFIX", "_leftImg8bit.png"),) if nested else IMAGE_SUFFIXES,
        "label_suffixes": (description.get("LABEL_SUFFIX", "_gtFine_labelTrainIds.png"),) if nested else LABEL_SUFFIXES,
    }
    for key, field in (("image_suffixes", "IMAGE_SUFFIX"), ("label_suffixes", "LABEL_SUFFIX")):
        if description.get(field):
            endings[key] = (description[field],)
    fix = f"Its paths stand under {SECTION}.{name} in the config."

    def load() -> list[dict]:
        images, labels = _path(description["IMAGES"]), _path(description["LABELS"])
        if description.get("LIST"):
            return load_listed(_path(description["LIST"]), images, labels, fix=fix, **endings)
        folders = _city_folders(images, fix) if nested else [""]
        pairs = [
            pair
            for folder in folders
            for pair in pair_files(os.path.join(images, folder), os.path.join(labels, folder), fix=fix, **endings)
        ]
        return [{"file_name": str(image), "sem_seg_file_name": str(label)} for image, label in pairs]

    _register(name, description, load, {}, evaluator_type="sem_seg", stuff_classes=list(description["CLASSES"]))


def _city_folders(images: str, fix: str) -> list[str]:
    folders = sorted(entry.name for entry in Path(images).iterdir() if entry.is_dir()) if os.path.isdir(images) else []
    if not folders:
        raise FileNotFoundError(f"folder {images} is absent or holds no folder of a city. {fix}")
    return folders


def _register_panoptic(name: str, description: dict) -> None:
    def load() -> list[dict]:
        check_custom(name)
        found = categories(_path(description["ANNOTATIONS"]))
        stuff = {c["id"]: n for n, c in enumerate((c for c in found if not c["isthing"]), start=1)}
        MetadataCatalog.get(name).set(stuff_dataset_id_to_contiguous_id=stuff)
        records = load_objects(_path(description["OBJECTS"]), _path(description["IMAGES"]), name)
        images, regions = _path(description["IMAGES"]), _path(description["REGIONS"])
        for record in records:
            stem = os.path.splitext(os.path.relpath(record["file_name"], images))[0]
            record["sem_seg_file_name"] = os.path.join(regions, f"{stem}.png")
        return records

    paths = {
        "json_file": "OBJECTS",
        "image_root": "IMAGES",
        "panoptic_json": "ANNOTATIONS",
        "panoptic_root": "LABELS",
        "sem_seg_root": "REGIONS",
    }
    _register(
        *(name, description, load, paths),
        evaluator_type="coco_panoptic_seg",
        label_divisor=1000,
        thing_classes=list(description["THINGS"]),
        stuff_classes=[THINGS_AS_REGION, *description["STUFF"]],
    )


#: KIND -> the function that registers a data set of it.
MAKERS = {
    "objects": _register_objects,
    "regions": _register_regions,
    "cityscapes": _register_regions,
    "panoptic": _register_panoptic,
}
