"""Predictions and labels of any task as one map of segments: objects, regions, or both.

Legend: H x W size of the image.
"""

from dataclasses import dataclass, field

import numpy as np
from detectron2.data import MetadataCatalog
from PIL import Image
from pycocotools import mask as coco_mask

from .color import RGB, shade

#: For classes whose data set has no colours.
_PALETTE: tuple[RGB, ...] = (
    (230, 85, 60),
    (60, 130, 220),
    (240, 180, 40),
    (70, 170, 110),
    (170, 95, 200),
    (40, 180, 190),
    (150, 160, 60),
)


@dataclass(frozen=True)
class Segment:
    """A region of one class; ``color`` is its own tone, ``class_color`` that of all of its class."""

    name: str
    color: RGB
    class_color: RGB
    is_thing: bool


@dataclass
class Segments:
    """``labels``: (H,W) int32, 0 for no segment, else a key of ``segments``."""

    labels: np.ndarray
    segments: dict[int, Segment] = field(default_factory=dict)

    def add(self, mask: np.ndarray, name: str, class_color: RGB, *, is_thing: bool) -> None:
        """Paint one more segment over what is there; an empty mask changes nothing."""
        if not mask.any():
            return
        before = sum(s.name == name for s in self.segments.values())
        color = shade(class_color, before) if is_thing else tuple(class_color)
        number = len(self.segments) + 1
        self.labels[mask] = number
        self.segments[number] = Segment(name, color, tuple(class_color), is_thing)


def from_prediction(output: dict, dataset: str, *, least_score: float = 0.5) -> Segments:
    """What one image's output of a Detectron2 model says: ``panoptic_seg`` where there is one, else ``sem_seg`` with
    ``instances`` on it, whichever is there.

    Args:
        output: of one image.
        dataset: name whose metadata have class names and colours.
        least_score: instances below it are left out (in ``panoptic_seg`` the network's own limit holds).

    Raises:
        ValueError: the output has none of the three, or instances without masks.
    """
    classes = Classes(dataset)
    if "panoptic_seg" in output:
        seg, infos = output["panoptic_seg"]
        seg = seg.cpu().numpy()
        found = Segments(np.zeros(seg.shape, np.int32))
        for info in infos:
            found.add(
                seg == info["id"], *classes.of(info["category_id"], thing=info["isthing"]), is_thing=info["isthing"]
            )
        return found
    if "sem_seg" not in output and "instances" not in output:
        raise ValueError(
            f"nothing to draw: the network gives {sorted(output)}; known are panoptic_seg, sem_seg, instances"
        )
    found = None
    if "sem_seg" in output:
        found = _regions(output["sem_seg"].argmax(dim=0).cpu().numpy(), classes)
    if "instances" in output:
        instances = output["instances"].to("cpu")
        if not instances.has("pred_masks"):
            raise ValueError("the instances have no masks: there is nothing to paint for a detector of boxes alone")
        order = instances.scores.argsort().tolist()  # the surest one is painted last
        masks = instances.pred_masks.numpy().astype(bool)
        found = found or Segments(np.zeros(instances.image_size, np.int32))
        for i in (i for i in order if instances.scores[i] >= least_score):
            found.add(masks[i], *classes.of(int(instances.pred_classes[i]), thing=True), is_thing=True)
    return found


def from_labels(record: dict, dataset: str) -> Segments:
    """The ground truth of a record of ``DatasetCatalog``: its label image, with its annotated objects on it.

    Raises:
        ValueError: the record has neither.
    """
    classes = Classes(dataset)
    found = None
    if "sem_seg_file_name" in record:
        found = _regions(np.asarray(Image.open(record["sem_seg_file_name"])), classes)
    if "annotations" in record:
        size = record["height"], record["width"]
        found = found or Segments(np.zeros(size, np.int32))
        for annotation in record["annotations"]:
            name, color = classes.of(annotation["category_id"], thing=True)
            found.add(annotation_mask(annotation, size), name, color, is_thing=True)
    if found is None:
        raise ValueError(f"{record.get('file_name')} in {dataset} has no labels that could be drawn")
    return found


def annotation_mask(annotation: dict, size: tuple[int, int]) -> np.ndarray:
    """(H,W) bool of an annotation with polygons, RLE or a bit mask."""
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, np.ndarray):
        return segmentation.astype(bool)
    if isinstance(segmentation, list):
        parts = coco_mask.frPyObjects(segmentation, *size)
        segmentation = coco_mask.merge(parts)
    elif isinstance(segmentation["counts"], list):
        segmentation = coco_mask.frPyObjects(segmentation, *size)
    return coco_mask.decode(segmentation).astype(bool)


class Classes:
    """Names and colours of a data set's classes.

    Args:
        dataset: name in ``MetadataCatalog``.
    """

    def __init__(self, dataset: str):
        metadata = MetadataCatalog.get(dataset)
        self.things = self._listed(metadata, "thing")
        self.stuff = self._listed(metadata, "stuff")
        #: Panoptic FPN's semantic branch has one class for all objects, which are drawn one by one instead.
        self.any_thing = 0 if self.things and self.stuff and self.stuff[0][0] == "things" else None

    @staticmethod
    def _listed(metadata, kind: str) -> list[tuple[str, RGB]]:
        names = metadata.get(f"{kind}_classes") or []
        colors = metadata.get(f"{kind}_colors") or [_PALETTE[i % len(_PALETTE)] for i in range(len(names))]
        return [(name, tuple(color)) for name, color in zip(names, colors)]

    def of(self, number: int, *, thing: bool) -> tuple[str, RGB]:
        """(name, colour) of a contiguous class number."""
        known = self.things if thing else self.stuff
        return known[number] if number < len(known) else (f"class {number}", _PALETTE[number % len(_PALETTE)])


def _regions(labels: np.ndarray, classes: Classes) -> Segments:
    """(H,W) class numbers -> a segment a class; numbers beyond the classes (void) and "any thing" stay empty."""
    found = Segments(np.zeros(labels.shape, np.int32))
    for number in np.unique(labels):
        if number < len(classes.stuff) and number != classes.any_thing:
            found.add(labels == number, *classes.of(int(number), thing=False), is_thing=False)
    return found
