"""Cityscapes: what Detectron2's own registration lacks, and the conversion of the download.

Detectron2 registers ``cityscapes_fine_{sem_seg,instance_seg}_{train,val,test}`` and
``cityscapes_fine_panoptic_{train,val}``. This file adds the benchmark's colours. ``datasets/prepare_cityscapes.py``
writes ``*_labelTrainIds.png`` and ``cityscapes_panoptic_*``.

This file also works around an error: since December 2024, the loader of Detectron2's main branch imports the label list
under the name that the package cityscapesscripts has inside Meta (Detectron2's issue 5436). While it loads, the public
package is available under that name.
"""

import contextlib
import functools
import importlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import cityscapes as detectron2_cityscapes
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES

from ..reading import read_labels
from .conversion import LabelFile, write_png

FOLDER = "cityscapes"
IGNORE_LABEL = 255
NUM_CLASSES = 19
_INTERNAL = "deeplearning.projects.cityscapesApi"
#: Beginnings of the names of the data sets whose loaders use the label list.
_LABEL_NAMES = ("cityscapes_fine_sem_seg", "cityscapes_fine_instance_seg")


@functools.cache
def labels() -> dict[int, tuple]:
    """Label id -> entry of the benchmark's list of labels; ids from 0 on, for those below are in no image.

    Raises:
        ValueError: the package cityscapesscripts is not installed.
    """
    try:
        from cityscapesscripts.helpers.labels import id2label
    except ModuleNotFoundError as error:
        raise ValueError("Cityscapes' labels are in the package cityscapesscripts: pip install it") from error
    return {number: label for number, label in id2label.items() if number >= 0}


def train_ids(file: LabelFile) -> np.ndarray:
    """(H, W) uint8 classes 0..18 and 255 from ``*_gtFine_labelIds.png``.

    Raises:
        ValueError: the file holds ids that Cityscapes does not have.
    """
    ids = read_labels(str(file.source))
    table = np.array([IGNORE_LABEL if label.ignoreInEval else label.trainId for _, label in sorted(labels().items())])
    if ids.max() >= len(table):
        raise ValueError(f"it holds the label {ids.max()}; allowed are 0..{len(table) - 1}")
    return table.astype(np.uint8)[ids]


def panoptic_annotation(file: LabelFile) -> dict:
    """Write the panoptic PNG of an image if it does not exist, and return the image's entry in the annotations.

    As ``createPanopticImgs`` of cityscapesscripts: a segment is an object or a region of stuff, its id the number in
    ``*_gtFine_instanceIds.png``, R + 256 G + 256^2 B in the PNG; groups of objects are crowds; what is not evaluated is
    void, 0.

    Raises:
        ValueError: the file holds ids that Cityscapes does not have.
    """
    from scipy import ndimage  # slow to import, and only the preparation needs it

    ids = read_labels(str(file.source)).astype(np.int64)
    segments = []
    numbers, areas = _present(ids)
    table = np.zeros(int(ids.max()) + 1, np.int64)
    table[numbers] = np.arange(1, len(numbers) + 1)
    boxes = ndimage.find_objects(table[ids])
    kept = np.zeros_like(table)
    for number, area, (rows, columns) in zip(numbers.tolist(), areas.tolist(), boxes):
        label = labels().get(number if number < 1000 else number // 1000)
        if label is None:
            raise ValueError(f"it holds the id {number}, which Cityscapes does not have")
        if label.ignoreInEval:
            continue
        kept[number] = number
        segments.append(
            {
                "id": number,
                "category_id": label.id,
                "area": area,
                "bbox": [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start],
                "iscrowd": int(number < 1000 and label.hasInstances),
            }
        )
    if not file.target.exists():
        ids = kept[ids]
        write_png(file.target, np.stack([ids >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8))
    return {"image_id": file.extra, "file_name": file.target.name, "segments_info": segments}


def _present(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    counts = np.bincount(ids.ravel())
    numbers = np.flatnonzero(counts)
    return numbers, counts[numbers]


def panoptic_categories() -> list[dict]:
    """The 19 evaluated labels as categories of a panoptic annotation."""
    return [
        {
            "id": label.id,
            "name": label.name,
            "color": list(label.color),
            "supercategory": label.category,
            "isthing": int(label.hasInstances),
        }
        for label in labels().values()
        if not label.ignoreInEval
    ]


def instance_files(gt_dir: Path) -> list[Path]:
    """All ``*_gtFine_instanceIds.png`` of a split, sorted by name."""
    return sorted(gt_dir.glob("*/*_gtFine_instanceIds.png"))


def complete_cityscapes() -> None:
    """Add colours to Detectron2's Cityscapes, unless the metadata have colours already.

    Metadata cannot be changed once they are set, and another project may set its own colours when it is imported. So
    ``add_fapn_config`` calls this function, not the import of fapn_d2.
    """
    by_train_id = sorted(CITYSCAPES_CATEGORIES, key=lambda category: category["trainId"])
    stuff = [list(category["color"]) for category in by_train_id]
    things = [list(category["color"]) for category in by_train_id if category["isthing"]]
    for name in [name for name in DatasetCatalog if name.startswith(_LABEL_NAMES)]:
        metadata = MetadataCatalog.get(name)
        for key, colors in (("stuff_colors", stuff), ("thing_colors", things)):
            if not metadata.get(key):
                metadata.set(**{key: colors})


def repair_cityscapes() -> None:
    """Work around the error in Detectron2's loader of Cityscapes, if it has that error. A second call does nothing."""
    if _INTERNAL not in inspect.getsource(detectron2_cityscapes):
        return
    for name in [name for name in DatasetCatalog if name.startswith(_LABEL_NAMES)]:
        load = DatasetCatalog[name]
        if getattr(load, "__module__", "").startswith("detectron2.") and not hasattr(load, "__wrapped__"):
            DatasetCatalog.remove(name)
            DatasetCatalog.register(name, lending(load))


def lending(load: Callable[[], list[dict]]) -> Callable[[], list[dict]]:
    """``load``, with the public package available under its internal name while it runs."""

    @functools.wraps(load)
    def load_with_public_package() -> list[dict]:
        with _public_package_under_internal_name():
            return load()

    return load_with_public_package


@contextlib.contextmanager
def _public_package_under_internal_name() -> Iterator[None]:
    parents = [_INTERNAL.rsplit(".", n)[0] for n in (2, 1, 0)]
    lent = {name: types.ModuleType(name) for name in parents if name not in sys.modules}
    for name in ("cityscapesscripts", "cityscapesscripts.helpers", "cityscapesscripts.helpers.labels"):
        lent[f"{_INTERNAL}.{name}"] = importlib.import_module(name)
    sys.modules.update(lent)
    try:
        yield
    finally:
        for name in lent:
            sys.modules.pop(name, None)
