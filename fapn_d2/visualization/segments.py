"""Predictions and labels of any task as one map of segments: objects, regions, or both.

Legend: H x W size of the image.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.structures import BitMasks, BoxMode
from detectron2.utils.colormap import colormap
from pycocotools import mask as coco_mask

from ..data.reading import read_labels
from ..layers.region_masks import RegionMasks
from .color import RGB, shade

#: For classes whose data set has no colours: Detectron2's, without its black, white and greys.
_PALETTE: tuple[RGB, ...] = tuple(tuple(int(c) for c in color) for color in colormap(rgb=True) if np.ptp(color) > 30)


@dataclass(frozen=True)
class Segment:
    """An object or region of one class; ``color`` is its own tone, ``class_color`` that of its class."""

    name: str
    color: RGB
    class_color: RGB
    is_thing: bool
    score: float | None = None  #: of a detector, 0 to 1
    box: tuple[float, float, float, float] | None = None  #: of an object, (x0, y0, x1, y1) in pixels

    @property
    def label(self) -> str:
        """``cat 87%``, or the name alone where there is no score."""
        return self.name if self.score is None else f"{self.name} {self.score:.0%}"


@dataclass
class Segments:
    """``labels``: (H,W) int32, 0 where there is no segment, else a key of ``segments``. ``extent`` is what they cover:
    "image" (every pixel should be in one), "objects" (masks of objects alone) or "boxes" (objects without masks)."""

    labels: np.ndarray
    segments: dict[int, Segment] = field(default_factory=dict)
    extent: str = "image"

    def add(
        self,
        mask: np.ndarray | None,
        name: str,
        class_color: RGB,
        *,
        is_thing: bool,
        score: float | None = None,
        box: Sequence[float] | None = None,
    ) -> None:
        """Add a segment, whose pixels are painted over earlier ones.

        Args:
            mask: (H,W) bool; an empty one changes nothing, None is an object of which only the box is known.
            name: the name of the class.
            class_color: the colour of the class.
            is_thing: an object, which gets a tone of its own, or a region.
            score: the score of the object.
            box: the box of the object, (x0, y0, x1, y1) in pixels.
        """
        if mask is not None and not mask.any():
            return
        before = sum(s.name == name for s in self.segments.values())
        color = shade(class_color, before) if is_thing else tuple(class_color)
        number = len(self.segments) + 1
        if mask is not None:
            self.labels[mask] = number
        box = tuple(float(v) for v in box) if box is not None else None
        self.segments[number] = Segment(name, color, tuple(class_color), is_thing, score, box)


def from_prediction(output: dict, dataset: str, *, least_score: float = 0.5) -> Segments:
    """The segments of one image's output of a Detectron2 model: ``panoptic_seg`` if there is one, else ``sem_seg``,
    ``instances`` (with or without masks), ``instances`` on ``sem_seg``, or proposed masks.

    Args:
        output: output for one image.
        dataset: name whose metadata have class names and colours; classes without a name are "class 0", "class 1", ...
        least_score: instances below it are left out (``panoptic_seg`` has the network's own limit).

    Raises:
        ValueError: the output has none of these.
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
    if (masks := proposed_masks(output)) is not None:
        found = _no_regions(masks.image_size, "objects")
        scores = output["proposals"].objectness_logits.sigmoid().cpu()
        kept = (scores >= least_score).nonzero()[:, 0].flip(0)  # best first, and the best is painted last
        for i, mask in zip(kept.tolist(), masks[kept].to("cpu").bitmasks().numpy()):
            found.add(mask, "proposal", _PALETTE[i % len(_PALETTE)], is_thing=True, score=float(scores[i]))
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
        masks = instances.pred_masks.numpy().astype(bool) if instances.has("pred_masks") else None
        boxes = instances.pred_boxes.tensor.tolist() if instances.has("pred_boxes") else [None] * len(instances)
        found = found or _no_regions(instances.image_size, "boxes" if masks is None else "objects")
        for i in instances.scores.argsort().tolist():  # the one with the highest score is painted last
            score = float(instances.scores[i])
            if score >= least_score:
                name, color = classes.of(int(instances.pred_classes[i]), thing=True)
                mask = None if masks is None else masks[i]
                found.add(mask, name, color, is_thing=True, score=score, box=boxes[i])
    return found


def proposed_masks(output: dict) -> RegionMasks | None:
    """The masks of a network that proposes segments; None for other networks."""
    masks = output["proposals"].get_fields().get("proposal_masks") if output.get("proposals") is not None else None
    return masks if isinstance(masks, RegionMasks) else None


def from_labels(record: dict, dataset: str, *, ignore_value: int = 255) -> Segments:
    """The ground truth of a record of ``DatasetCatalog``: its label image, with its annotated objects on it.

    Args:
        record: a record with "sem_seg_file_name", "annotations", or both.
        dataset: name whose metadata have class names and colours; classes without a name are "class 0", "class 1", ...
        ignore_value: label of pixels without ground truth, unless the metadata have ``ignore_label``.

    Raises:
        ValueError: the record has neither.
    """
    classes = Classes(dataset)
    found = None
    if "sem_seg_file_name" in record:
        void = MetadataCatalog.get(dataset).get("ignore_label", ignore_value)
        found = _regions(read_labels(record["sem_seg_file_name"]), classes, void=void)
    if "annotations" in record:
        size = record["height"], record["width"]
        with_masks = any("segmentation" in annotation for annotation in record["annotations"])
        found = found or _no_regions(size, "objects" if with_masks else "boxes")
        for annotation in record["annotations"]:
            name, color = classes.of(annotation["category_id"], thing=True)
            mask = annotation_mask(annotation, size) if "segmentation" in annotation else None
            box = None
            if "bbox" in annotation:
                box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
            found.add(mask, name, color, is_thing=True, box=box)
    if found is None:
        raise ValueError(f"{record.get('file_name')} in {dataset} has no labels that could be drawn")
    return found


def from_sample(sample: dict, dataset: str, *, ignore_value: int = 255) -> Segments:
    """The labels of a training sample, as the mapper gives it: "sem_seg", "instances", or instances on regions.

    Args:
        sample: with "image" (3, h, w).
        dataset: name whose metadata have class names and colours; classes without a name are "class 0", "class 1", ...
        ignore_value: label of pixels without ground truth.
    """
    classes = Classes(dataset)
    size = tuple(sample["image"].shape[1:])
    found = _regions(sample["sem_seg"].numpy(), classes, void=ignore_value) if "sem_seg" in sample else None
    instances = sample.get("instances")
    if instances is None:
        return found or _no_regions(size, "image")
    masks = None
    if instances.has("gt_masks"):
        masks = instances.gt_masks
        masks = (masks if isinstance(masks, BitMasks) else BitMasks.from_polygon_masks(masks, *size)).tensor.numpy()
    boxes = instances.gt_boxes.tensor.tolist() if instances.has("gt_boxes") else [None] * len(instances)
    found = found or _no_regions(size, "boxes" if masks is None else "objects")
    for i, number in enumerate(instances.gt_classes.tolist()):
        mask = None if masks is None else masks[i]
        found.add(mask, *classes.of(number, thing=True), is_thing=True, box=boxes[i])
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
        #: Number of the class "all objects" of Panoptic FPN's semantic branch; objects are drawn one by one instead.
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


def _no_regions(size: tuple[int, int], extent: str) -> Segments:
    return Segments(np.zeros(size, np.int32), extent=extent)


def _regions(labels: np.ndarray, classes: Classes, *, void: int | None = None) -> Segments:
    """(H,W) class numbers -> one segment for each class; ``void`` and "any thing" stay empty."""
    found = Segments(np.zeros(labels.shape, np.int32))
    for number in np.unique(labels):
        if number not in (void, classes.any_thing):
            found.add(labels == number, *classes.of(int(number), thing=False), is_thing=False)
    return found
