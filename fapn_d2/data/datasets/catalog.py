"""Registering data sets whose folder may change after import."""

import logging
import os
from collections.abc import Callable, Mapping

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.logger import log_first_n

#: Environment variable with the folder of all data sets, the same as Detectron2's.
ROOT_VARIABLE = "DETECTRON2_DATASETS"


def data_root() -> str:
    """Folder that holds all data sets: ``$DETECTRON2_DATASETS``, else ``datasets`` in the current folder."""
    return os.path.expanduser(os.getenv(ROOT_VARIABLE, "datasets"))


#: Beginning of a data set's name -> how to make the data set. The first beginning that fits is used.
_ADVICE = (
    ("cityscapes_fine_sem_seg_test", "Its images are in leftImg8bit_trainvaltest.zip."),
    ("cityscapes_fine_instance_seg_test", "Its images are in leftImg8bit_trainvaltest.zip."),
    ("cityscapes_fine_panoptic_test", "Its images are in leftImg8bit_trainvaltest.zip."),
    ("coco_2017_test", "Its images are in test2017.zip, its lists in image_info_test2017.zip."),
    ("ade20k_sem_seg_test", "Its images go to ADEChallengeData2016/images/testing."),
    ("mapillary_vistas_sem_seg_test", "Its images are in testing/images of the download."),
    ("camvid", "Make it with datasets/prepare_camvid.py."),
    ("shapes", "Remove what is left of its folder: it is generated anew on the next use."),
    ("coco_2017_train_panoptic", "The labels of stuff are made by datasets/prepare_coco_panoptic.py."),
    ("coco_2017_val_panoptic", "The labels of stuff are made by datasets/prepare_coco_panoptic.py."),
    ("coco_2014_val", "Its images are in val2014.zip, its labels in annotations_trainval2014.zip."),
    ("coco_2014_train", "Its images are in train2014.zip, its labels in annotations_trainval2014.zip."),
    ("coco_2017_train_8", "Its annotations are made by datasets/prepare_coco_subset.py."),
    ("coco_stuff_2017", "Its labels are made by datasets/prepare_coco_stuff_2017.py."),
    ("coco_stuff_10k", "Its labels are made by datasets/prepare_coco_stuff_10k.py."),
    ("cityscapes_fine_sem_seg", "Train ids are made by datasets/prepare_cityscapes.py."),
    ("cityscapes_fine_panoptic", "Its labels are made by datasets/prepare_cityscapes.py."),
    ("ade20k", "Its labels are made by datasets/prepare_ade20k.py."),
    ("pascal_context", "Its labels are made by datasets/prepare_pascal_context.py."),
    (
        "mapillary_vistas",
        "Its labels are those of version 1.2; datasets/prepare_mapillary_vistas.py checks them.",
    ),
)


def advice(name: str) -> str:
    """The sentence that tells users what to do when files of the data set ``name`` are missing."""
    value = os.getenv(ROOT_VARIABLE)
    now = f"is {value}" if value else "is not set"
    made = _NOTES.get(name) or next((text for start, text in _ADVICE if name.startswith(start)), "")
    made += " " if made else ""
    return (
        f"{made}Data sets are looked for in {os.path.abspath(data_root())} (the environment variable {ROOT_VARIABLE} "
        f"{now}); datasets/README.md shows what is expected there."
    )


#: Name -> (paths, prepare) as given to :func:`register`, and the function in the catalog.
_PLACES: dict[str, tuple[Mapping[str, str], Callable[[str], object] | None, Callable[[], list[dict]]]] = {}
#: Name -> note as given to :func:`register`.
_NOTES: dict[str, str] = {}


def register(
    name: str,
    load: Callable[[str], list[dict]],
    *,
    paths: Mapping[str, str],
    prepare: Callable[[str], object] | None = None,
    note: str = "",
    **metadata,
) -> None:
    """Register a data set that is searched for under :func:`data_root` each time it is used.

    Detectron2 reads the variable once, at import, but notebooks and tests set it later. A second call with the same
    name does nothing. If somebody else has registered the name, the existing data set is kept, with a warning.

    Args:
        name: the name in Detectron2's catalogs.
        load: function from the data root to records in Detectron2's format.
        paths: metadata that are paths, relative to the data root.
        prepare: function of the data root that is called before each use, for data sets that are generated.
        note: a sentence for :func:`advice`.
        **metadata: all other metadata for the ``MetadataCatalog``.
    """
    if name in DatasetCatalog:
        if registered_here(name):
            return
        log_first_n(  # not for every config that is made
            logging.WARNING,
            f"A data set named {name} is registered already; fapn_d2 leaves it as it is.",
            name=__name__,
            key="message",
        )
        return

    def load_from_current_root() -> list[dict]:
        locate(name)
        return load(data_root())

    DatasetCatalog.register(name, load_from_current_root)
    MetadataCatalog.get(name).set(**metadata)
    _PLACES[name] = (paths, prepare, load_from_current_root)
    _NOTES[name] = note
    _set_paths(name)


def unregister(name: str) -> None:
    """Remove a data set that :func:`register` registered. Does nothing for any other name."""
    if not registered_here(name):
        return
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)
    del _PLACES[name]
    _NOTES.pop(name, None)


def locate(name: str) -> None:
    """Set the paths in the metadata of ``name`` to the current data root, and generate the data set if it is a
    generated one. Data sets that were not registered by :func:`register` are not changed."""
    if not registered_here(name):
        return
    _set_paths(name)
    prepare = _PLACES[name][1]
    if prepare:
        prepare(data_root())


def registered_here(name: str) -> bool:
    """Whether :func:`register` registered ``name``, and nobody has replaced it since."""
    return name in _PLACES and name in DatasetCatalog and DatasetCatalog[name] is _PLACES[name][2]


def _set_paths(name: str) -> None:
    # Metadata refuses to change a value, in order to protect class lists. A folder that moved is not an error.
    root, paths = data_root(), _PLACES[name][0]
    vars(MetadataCatalog.get(name)).update({key: os.path.join(root, path) for key, path in paths.items()})
