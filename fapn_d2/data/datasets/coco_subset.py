"""A few images of COCO as a data set: a network that is built correctly overfits them within minutes.

``datasets/prepare_coco_subset.py`` writes the annotations in COCO's format, beside COCO's own files.
"""

import os
from typing import Any

from detectron2.data.datasets.builtin_meta import _get_builtin_metadata
from detectron2.data.datasets.coco import load_coco_json

from .catalog import register

#: Data sets that are registered: split, number of images.
SUBSETS = (("train2017", 8),)
#: Number of the images of val2014, ordered by id, that segmentation proposals are scored on (FPN, Section 6). Most of
#: them are in train2017, so a network that is scored on them must be trained on train2014.
FIRST_OF_VAL2014 = 5000


def annotation_file(split: str, number: int) -> str:
    """Path below the data root, named as Detectron2 names its own subsets of COCO."""
    return f"coco/annotations/instances_{split}_{number}.json"


def select(content: dict[str, Any], number: int, *, min_side: float) -> dict[str, Any]:
    """The first images, ordered by id, that have objects and no small object.

    Args:
        content: the content of a file of COCO's instances.
        number: number of images.
        min_side: square root of the smallest allowed area of an object, in pixels. Images with crowds are left out too.

    Returns:
        The content with these images and their annotations alone; categories, licences and so on are unchanged.

    Raises:
        ValueError: there are fewer such images than ``number``.
    """
    objects: dict[int, list[dict]] = {}
    for annotation in content["annotations"]:
        objects.setdefault(annotation["image_id"], []).append(annotation)

    def fits(image: dict) -> bool:
        found = objects.get(image["id"], [])
        return bool(found) and all(not o["iscrowd"] and o["area"] >= min_side**2 for o in found)

    images = [image for image in sorted(content["images"], key=lambda image: image["id"]) if fits(image)]
    if len(images) < number:
        raise ValueError(
            f"only {len(images)} of {len(content['images'])} images have objects of which none is smaller than "
            f"{min_side:g} x {min_side:g} pixels, but {number} are asked for; lower --min-side"
        )
    images = images[:number]
    return content | {"images": images, "annotations": [o for image in images for o in objects[image["id"]]]}


def register_coco_subsets() -> None:
    """Register coco_2017_train_8 and coco_2014_val_first_5000."""
    for split, number in SUBSETS:
        name = f"coco_2017_{split.removesuffix('2017')}_{number}"
        paths = {"json_file": annotation_file(split, number), "image_root": f"coco/{split}"}

        def load(root: str, name: str = name, paths: dict = paths) -> list[dict]:
            return load_coco_json(*(os.path.join(root, path) for path in paths.values()), name)

        register(name, load, paths=paths, evaluator_type="coco", **_get_builtin_metadata("coco"))

    paths = {"json_file": "coco/annotations/instances_val2014.json", "image_root": "coco/val2014"}

    def load_first(root: str, paths: dict = paths) -> list[dict]:
        # Detectron2 orders the images by id
        records = load_coco_json(*(os.path.join(root, path) for path in paths.values()), "coco_2014_val_first_5000")
        return records[:FIRST_OF_VAL2014]

    register(
        "coco_2014_val_first_5000", load_first, paths=paths, evaluator_type="coco", **_get_builtin_metadata("coco")
    )
