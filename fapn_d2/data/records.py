"""The records that a training learns from, checked for what Detectron2 asserts or passes over in silence."""

import logging
import math
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.structures import BoxMode

from ..messages import some
from .checks import needed_labels

logger = logging.getLogger(__name__)


def training_records(names: Sequence[str], *, masks: bool, **options) -> list[dict]:
    """Detectron2's records of data sets, for training.

    Args:
        names: registered data sets.
        masks: whether the network learns masks, so that every object needs one.
        **options: of Detectron2's ``get_detection_dataset_dicts``.

    Raises:
        ValueError: no image is left, annotations name a category that does not exist, or objects have no masks.
    """
    try:
        records = get_detection_dataset_dicts(names, **options)
    except KeyError as error:
        raise ValueError(f"data sets {some(names)}: {error.args[0] if error.args else error}") from error
    except AssertionError as error:
        reason = str(error)
        if not reason.startswith(("No valid data", "Dataset ")):
            raise
        raise ValueError(
            f"data sets {some(names, sort=False)} have no image with annotations, so that there is nothing to train "
            "on. Images without objects are left out unless DATALOADER.FILTER_EMPTY_ANNOTATIONS is False"
        ) from error
    _check_objects(records, names, masks)
    return records


def needs_masks(cfg: CfgNode) -> bool:
    """Whether the network of a config learns masks of objects."""
    name = cfg.MODEL.META_ARCHITECTURE
    if not cfg.MODEL.MASK_ON or name not in META_ARCH_REGISTRY:
        return False
    return issubclass(META_ARCH_REGISTRY.get(name), GeneralizedRCNN) and "objects" in needed_labels(cfg)


def _check_objects(records: Sequence[dict], names: Sequence[str], masks: bool) -> None:
    total, without, first, bad_boxes = 0, 0, "", []
    for record in records:
        for annotation in record.get("annotations", ()):
            if annotation.get("iscrowd", 0):  # the mapper leaves them out
                continue
            total += 1
            if not annotation.get("segmentation"):
                without, first = without + 1, first or record["file_name"]
            if not _has_area(annotation):
                bad_boxes.append(record["file_name"])
    if masks and without:
        raise ValueError(
            f"{without} of the {total} objects in {some(names, sort=False)} have no mask (the first is in {first}), "
            "but MODEL.MASK_ON is True; set it to False to learn boxes alone"
        )
    if bad_boxes:
        logger.warning(
            "%d of the %d objects in %s have boxes without area, or with numbers that are not finite, and are not "
            "learned (%s). tools/check_data.py lists them.",
            *(len(bad_boxes), total, some(names, sort=False), some(dict.fromkeys(bad_boxes), sort=False)),
        )


def _has_area(annotation: dict) -> bool:
    box = annotation.get("bbox")
    if box is None or len(box) != 4:
        return True  # rotated boxes, or none
    a, b, c, d = map(float, box)
    if annotation.get("bbox_mode", BoxMode.XYXY_ABS) in (BoxMode.XYXY_ABS, BoxMode.XYXY_REL):
        c, d = c - a, d - b
    return all(map(math.isfinite, (a, b, c, d))) and c > 0 and d > 0
