"""The tasks of the servers, their splits, and the names in an archive.

Numbers of images: COCO's download page, Cityscapes' README, the papers of ADE20K and Mapillary Vistas.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ...data.datasets.ade20k import NUM_CLASSES as ADE20K_CLASSES
from ...data.datasets.mapillary import COLORS as VISTAS_CLASSES
from .archive import Layout
from .cityscapes import CityscapesInstances
from .coco import CocoBoxes, CocoMasks, CocoStuff
from .label_images import CityscapesPixels, LabelImages
from .panoptic import Panoptic
from .writer import Writer

_ALGORITHM = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]*")


@dataclass(frozen=True)
class Split:
    """Images that a server scores.

    Attributes:
        official: the server's name of the split.
        dataset: the registered data set with these images.
        images: the number of images; 0: not known (ADE20K's test set has had two sizes).
    """

    official: str
    dataset: str
    images: int


@dataclass(frozen=True)
class Task:
    """What one server accepts.

    Attributes:
        name: the name on the command line.
        family: the kind of checks: "detections", "stuff", "panoptic", "labels" or "instances".
        server: "coco", "cityscapes", "ade20k" or "vistas".
        writer: a function from the name of a data set and limits to the writer of parts.
        splits: name on the command line -> split.
        layout: a function from the official name of the split and the algorithm to the names in the archive.
    """

    name: str
    family: str
    server: str
    writer: Callable[..., Writer]
    splits: dict[str, Split]
    layout: Callable[[str, str], Layout]

    def split(self, name: str) -> Split:
        """A split by its name on the command line.

        Raises:
            ValueError: the task has no such split.
        """
        if name not in self.splits:
            raise ValueError(f"{self.name} has no split {name!r}; allowed are {', '.join(self.splits)}")
        return self.splits[name]

    def names(self, split: str, algorithm: str) -> Layout:
        """The names in an archive.

        Raises:
            ValueError: the task has no such split, or the algorithm's name cannot be part of a file name.
        """
        if not _ALGORITHM.fullmatch(algorithm):
            raise ValueError(
                f"the algorithm's name {algorithm!r} becomes part of file names: use letters, digits and . + - _"
            )
        return self.layout(self.split(split).official, algorithm)


def _coco(kind: str, split: str, algorithm: str) -> Layout:
    stem = f"{kind}_{split}_{algorithm}_results"
    if kind == "panoptic":
        return Layout(f"{stem}.zip", json=f"{stem}.json", array=False, folder=f"{stem}/")
    return Layout(f"{stem}.zip", json=f"{stem}.json")


def _plain(kind: str, split: str, algorithm: str) -> Layout:
    return Layout(f"{kind}_{split}_{algorithm}.zip")


def _cityscapes_panoptic(split: str, algorithm: str) -> Layout:
    stem = f"cityscapes_panoptic_{split}"
    return Layout(f"{stem}_{algorithm}.zip", json=f"{stem}.json", array=False, folder=f"{stem}/")


def _coco_splits(kind: str) -> dict[str, Split]:
    return {
        "val": Split("val2017", f"coco_2017_val{kind}", 5000),
        "test-dev": Split("test-dev2017", f"coco_2017_test-dev{kind}", 20288),
        "test-challenge": Split("test-challenge2017", f"coco_2017_test{kind}", 40670),  # sent with the whole test set
    }


def _cityscapes_splits(kind: str) -> dict[str, Split]:
    return {
        "val": Split("val", f"cityscapes_fine_{kind}_val", 500),
        "test": Split("test", f"cityscapes_fine_{kind}_test", 1525),
    }


def _pixel_splits(dataset: str, val: int, test: int) -> dict[str, Split]:
    return {"val": Split("val", f"{dataset}_val", val), "test": Split("test", f"{dataset}_test", test)}


_ADE20K = partial(LabelImages, values=range(1, ADE20K_CLASSES + 1))
_VISTAS = partial(LabelImages, values=range(len(VISTAS_CLASSES)))

#: Name -> task.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("coco-boxes", "detections", "coco", CocoBoxes, _coco_splits(""), partial(_coco, "detections")),
        Task("coco-masks", "detections", "coco", CocoMasks, _coco_splits(""), partial(_coco, "detections")),
        Task(
            *("coco-panoptic", "panoptic", "coco", Panoptic),
            *(_coco_splits("_panoptic_separated"), partial(_coco, "panoptic")),
        ),
        Task("coco-stuff", "stuff", "coco", CocoStuff, _coco_splits(""), partial(_coco, "stuff")),
        Task(
            *("cityscapes-pixel", "labels", "cityscapes", CityscapesPixels),
            *(_cityscapes_splits("sem_seg"), partial(_plain, "cityscapes_pixel")),
        ),
        Task(
            *("cityscapes-instance", "instances", "cityscapes", CityscapesInstances),
            *(_cityscapes_splits("instance_seg"), partial(_plain, "cityscapes_instance")),
        ),
        Task(
            *("cityscapes-panoptic", "panoptic", "cityscapes", Panoptic),
            *(_cityscapes_splits("panoptic"), _cityscapes_panoptic),
        ),
        Task(
            *("ade20k", "labels", "ade20k", _ADE20K),
            *(_pixel_splits("ade20k_sem_seg", 2000, 0), partial(_plain, "ade20k")),
        ),
        Task(
            *("vistas", "labels", "vistas", _VISTAS),
            *(_pixel_splits("mapillary_vistas_sem_seg", 2000, 5000), partial(_plain, "vistas")),
        ),
    )
}


def task_named(name: str) -> Task:
    """A task by its name.

    Raises:
        ValueError: there is no such task. The message names all tasks.
    """
    if name not in TASKS:
        raise ValueError(f"there is no task {name!r}; allowed are {', '.join(TASKS)}")
    return TASKS[name]
