"""Splits whose labels are not public: images to be predicted for a server, and nothing to score.

Detectron2 registers COCO's test images for boxes and masks, and Cityscapes' test images with a loader that insists on
label files. Here are the others, and Cityscapes' again, from the images alone. The metadata of such a split name under
"submission" what a server takes: output of the network -> names in ``fapn_d2.evaluation.submission.tasks``.
"""

import json
import os
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from ...config.keys import complete_catalogs
from .ade20k import FOLDER as ADE20K
from .catalog import advice, locate, register
from .image_label_pairs import IMAGE_SUFFIXES, stems
from .mapillary import FOLDER as MAPILLARY
from .mapillary import METADATA as MAPILLARY_METADATA

#: Name -> (image list below the data root, output of the network -> tasks). Both lists refer to coco/test2017.
COCO = {
    "coco_2017_test-dev_panoptic_separated": "coco/annotations/image_info_test-dev2017.json",
    "coco_2017_test_panoptic_separated": "coco/annotations/image_info_test2017.json",
}
#: Part of the name -> output of the network -> tasks.
CITYSCAPES = {
    "sem_seg": {"sem_seg": ("cityscapes-pixel",)},
    "instance_seg": {"instances": ("cityscapes-instance",)},
    "panoptic": {
        "instances": ("cityscapes-instance",),
        "sem_seg": ("cityscapes-pixel",),
        "panoptic_seg": ("cityscapes-panoptic",),
    },
}
_CITY_SUFFIX = "_leftImg8bit.png"


def unlabelled(name: str) -> bool:
    """Whether ``name`` is registered as a split whose labels are not public."""
    return bool(MetadataCatalog.get(name).get("submission"))


def image_list(name: str) -> list[dict]:
    """The images of a data set in the order of their names or of their list; no label is looked for.

    Args:
        name: a registered data set, with or without labels.

    Returns:
        Records with "file_name", "image_id" (COCO's number; ``<city>_<sequence>_<frame>``; else the file's stem) and,
        where the list states them, "height" and "width".

    Raises:
        FileNotFoundError: the list or the folder of the images is absent.
        ValueError: the list is not JSON with "images"; the name is not registered.
    """
    complete_catalogs()  # tools/submission.py checks an archive without a config
    if name not in DatasetCatalog:
        raise ValueError(f"data set {name!r} is not registered")
    locate(name)
    metadata = MetadataCatalog.get(name)
    kind, root = metadata.get("evaluator_type", ""), metadata.get("image_root")
    if kind.startswith("cityscapes") and (folder := metadata.get("image_dir") or root):
        return city_images(folder, fix=advice(name))
    if (listed := metadata.get("json_file") or metadata.get("panoptic_json")) and root:
        return listed_images(listed, root, fix=advice(name))
    if root:
        found = stems(root, IMAGE_SUFFIXES, fix=advice(name), what="images")
        return [{"file_name": str(found[stem]), "image_id": stem} for stem in sorted(found)]
    return [
        {"file_name": r["file_name"], "image_id": r.get("image_id", Path(r["file_name"]).stem)}
        for r in DatasetCatalog.get(name)
    ]


def city_images(folder: str | os.PathLike, *, fix: str = "") -> list[dict]:
    """Records of ``<folder>/<city>/*_leftImg8bit.png``, sorted by name.

    Raises:
        FileNotFoundError: there is no such image; the message ends in ``fix``.
    """
    found = sorted(Path(PathManager.get_local_path(str(folder))).glob(f"*/*{_CITY_SUFFIX}"), key=lambda path: path.name)
    if not found:
        raise FileNotFoundError(f"there are no images {folder}/<city>/*{_CITY_SUFFIX}. {fix}")
    return [{"file_name": str(path), "image_id": path.name.removesuffix(_CITY_SUFFIX)} for path in found]


def listed_images(json_file: str, image_root: str, *, fix: str = "") -> list[dict]:
    """Records of the "images" in a JSON file of COCO's, in the order of the file.

    Raises:
        FileNotFoundError: the file is absent; the message ends in ``fix``.
        ValueError: it is not JSON with "images".
    """
    if not PathManager.isfile(json_file):
        raise FileNotFoundError(f"the image list {json_file} is absent. {fix}")
    with PathManager.open(json_file) as file:
        try:
            images = json.load(file)["images"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{json_file} is not a JSON object with a list of images under 'images'") from error
    return [
        {
            "file_name": os.path.join(image_root, os.path.basename(image["file_name"])),
            "image_id": image["id"],
            **{key: image[key] for key in ("height", "width") if key in image},
        }
        for image in images
    ]


def register_unlabelled() -> None:
    """Register ``coco_2017_{test-dev,test}_panoptic_separated``, ``ade20k_sem_seg_test``,
    ``mapillary_vistas_sem_seg_test`` and ``cityscapes_fine_{sem_seg,instance_seg,panoptic}_test``.

    Nothing is read before one is asked for. Other projects may register some of these names when they are imported, so
    ``add_fapn_config`` calls this function, not the import of fapn_d2.
    """
    for name, listed in COCO.items():
        tasks = {"instances": ("coco-boxes", "coco-masks"), "panoptic_seg": ("coco-panoptic",)}
        _register(
            name, {"json_file": listed, "image_root": "coco/test2017"}, tasks, like="coco_2017_val_panoptic_separated"
        )
    for kind, tasks in CITYSCAPES.items():
        name, key = f"cityscapes_fine_{kind}_test", "image_root" if kind == "panoptic" else "image_dir"
        # Detectron2's own loader needs label files. A loader of another project stays.
        if name in DatasetCatalog and DatasetCatalog[name].__module__.startswith("detectron2."):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        _register(name, {key: "cityscapes/leftImg8bit/test"}, tasks, like=f"cityscapes_fine_{kind}_val")
    _register(
        "ade20k_sem_seg_test",
        {"image_root": f"{ADE20K}/images/testing"},
        {"sem_seg": ("ade20k",)},
        like="ade20k_sem_seg_val",
    )
    _register(
        "mapillary_vistas_sem_seg_test",
        {"image_root": f"{MAPILLARY}/testing/images"},
        {"sem_seg": ("vistas",)},
        like=MAPILLARY_METADATA,
    )


#: Metadata of a labelled split that say where it lies; classes and colours are the same in all splits.
_PLACES = ("name", "image_root", "image_dir", "gt_dir", "json_file", "panoptic_json", "panoptic_root", "sem_seg_root")


def _register(name: str, paths: dict[str, str], tasks: dict[str, tuple[str, ...]], *, like: str | dict) -> None:
    """``like`` is the metadata of a labelled split, or its name."""
    known = MetadataCatalog.get(like).as_dict() if isinstance(like, str) else like
    metadata = {key: value for key, value in known.items() if key not in _PLACES}
    register(name, lambda root: image_list(name), paths=paths, submission=tasks, **metadata)
