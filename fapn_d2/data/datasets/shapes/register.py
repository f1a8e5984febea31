"""Names of "shapes" in Detectron2's catalogs: ``shapes_{train,val}`` with objects, ``..._sem_seg`` with all classes as
regions, ``..._panoptic_separated`` with objects and stuff for Panoptic FPN, ``..._panoptic_stuffonly``."""

import os

from detectron2.data.datasets import load_coco_json, load_sem_seg
from detectron2.data.datasets.coco_panoptic import merge_to_panoptic

from ..catalog import register
from .generate import ensure_shapes
from .spec import (
    ANY_THING_COLOR,
    DEFAULT_SPLITS,
    IGNORE_LABEL,
    STUFF,
    STUFF_COLORS,
    STUFF_IDS,
    THING_COLORS,
    THING_IDS,
    THINGS,
    folder,
    paths,
)

_FOLDER = "shapes"


def _colors(colors) -> list[list[int]]:
    return [list(c) for c in colors]


def _contiguous(ids, first: int = 0) -> dict[int, int]:
    return {dataset_id: i for i, dataset_id in enumerate(ids, first)}


_THINGS = {
    "thing_classes": list(THINGS),
    "thing_colors": _colors(THING_COLORS),
    "thing_dataset_id_to_contiguous_id": _contiguous(THING_IDS),
}
_ALL_AS_STUFF = {
    "stuff_classes": list(THINGS + STUFF),
    "stuff_colors": _colors(THING_COLORS + STUFF_COLORS),
    "stuff_dataset_id_to_contiguous_id": _contiguous(THING_IDS + STUFF_IDS),
}
# Panoptic FPN's semantic branch has one class "things", number 0, and then the stuff classes.
_STUFF = {
    "stuff_classes": ["things", *STUFF],
    "stuff_colors": _colors((ANY_THING_COLOR, *STUFF_COLORS)),
    "stuff_dataset_id_to_contiguous_id": {0: 0} | _contiguous(STUFF_IDS, 1),
}


def _prepare(root: str) -> None:
    ensure_shapes(os.path.join(root, _FOLDER))


def _place(root: str, split: str, key: str) -> str:
    return str(folder(os.path.join(root, _FOLDER), split, key))


def _objects(root: str, split: str, name: str) -> list[dict]:
    return load_coco_json(_place(root, split, "json_file"), _place(root, split, "image_root"), name)


def _regions(root: str, split: str, labels: str) -> list[dict]:
    return load_sem_seg(_place(root, split, labels), _place(root, split, "image_root"))


def register_shapes() -> None:
    """Register all names. Nothing is read or generated before a data set is used.

    Another project may register some of these names when it is imported, so ``add_fapn_config`` calls this function,
    not the import of fapn_d2.

    Detectron2's ``register_coco_panoptic_separated`` has fixed paths; here the same names and metadata are registered
    with paths that follow the data root.
    """
    for split in DEFAULT_SPLITS:
        below = {key: f"{_FOLDER}/{path}" for key, path in paths(split).items()}
        images = {"image_root": below["image_root"]}
        register(
            name := f"shapes_{split}",
            lambda root, s=split, n=name: _objects(root, s, n),
            paths=images | {"json_file": below["json_file"]},
            prepare=_prepare,
            evaluator_type="coco",
            **_THINGS,
        )
        register(
            f"shapes_{split}_sem_seg",
            lambda root, s=split: _regions(root, s, "sem_seg_root"),
            paths=images | {"sem_seg_root": below["sem_seg_root"]},
            prepare=_prepare,
            evaluator_type="sem_seg",
            ignore_label=IGNORE_LABEL,
            **_ALL_AS_STUFF,
        )
        register(
            f"shapes_{split}_panoptic_stuffonly",
            lambda root, s=split: _regions(root, s, "stuff_root"),
            paths=images | {"sem_seg_root": below["stuff_root"]},
            prepare=_prepare,
            evaluator_type="sem_seg",
            ignore_label=IGNORE_LABEL,
            **_THINGS,
            **_STUFF,
        )
        register(
            name := f"shapes_{split}_panoptic_separated",
            lambda root, s=split, n=name: merge_to_panoptic(_objects(root, s, n), _regions(root, s, "stuff_root")),
            paths=images
            | {key: below[key] for key in ("json_file", "panoptic_json", "panoptic_root")}
            | {"sem_seg_root": below["stuff_root"]},
            prepare=_prepare,
            evaluator_type="coco_panoptic_seg",
            ignore_label=IGNORE_LABEL,
            **_THINGS,
            **_STUFF,
        )
