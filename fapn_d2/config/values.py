"""Which values of config keys are allowed, checked before a network is built. Detectron2 asserts them later, or never.

A check of a new key is one line in one of the tables. Keys that only some parts read are checked where those are built.
"""

import logging
import math
from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode

from ..messages import nearest
from .lookup import value_of

logger = logging.getLogger(__name__)

#: Key -> the least value; of a list, of each of its numbers. A key that the config lacks is not checked.
AT_LEAST = {
    "INPUT.MIN_SIZE_TRAIN": 1,
    "INPUT.MAX_SIZE_TRAIN": 1,
    "INPUT.MIN_SIZE_TEST": 0,  # 0: images are not resized
    "INPUT.MAX_SIZE_TEST": 1,
    "INPUT.SCALE_CROP.SIZE": 1,
    "INPUT.MAX_BAD_IMAGES": 0,
    "DATALOADER.NUM_WORKERS": 0,
    "MODEL.FPN.OUT_CHANNELS": 1,
    "MODEL.ROI_HEADS.NUM_CLASSES": 1,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 1,
    "MODEL.RETINANET.NUM_CLASSES": 1,
    "MODEL.FCOS.NUM_CLASSES": 1,
    "MODEL.PANOPTIC_FCN.NUM_CLASSES": 1,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 1,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 0,  # 0: no hidden layer, in the heads that allow it
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": 0,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 1,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 1,
    "MODEL.RESNETS.NUM_GROUPS": 1,
    "SOLVER.MAX_ITER": 1,
    "SOLVER.CHECKPOINT_PERIOD": 1,
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.BASE_LR": 0,
    "SOLVER.MOMENTUM": 0,
    "SOLVER.WEIGHT_DECAY": 0,
    "TEST.EVAL_PERIOD": 0,
    "TEST.DETECTIONS_PER_IMAGE": 1,
}
#: Key -> the allowed values.
CHOICES = {
    "INPUT.MASK_FORMAT": ("polygon", "bitmask"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
    "INPUT.RANDOM_FLIP": ("horizontal", "vertical", "none"),
    "INPUT.CROP.TYPE": ("relative", "relative_range", "absolute", "absolute_range"),
    "TEST.BACKEND": ("fast", "official"),
}


def check_values(cfg: CfgNode) -> None:
    """Raise one error with all values that are out of range or not among the allowed ones.

    Raises:
        ValueError: names each key, its value and what is allowed.
    """
    wrong = [
        f"{key} is {value}; {'each number' if isinstance(value, (list, tuple)) else 'it'} must be at least {least}"
        for key, least in AT_LEAST.items()
        if (value := value_of(cfg, key, None)) is not None and any(not least <= n < math.inf for n in _numbers(value))
    ]
    wrong += [
        f"{key} is {value!r}; allowed are {', '.join(allowed)}{nearest(str(value), allowed)}"
        for key, allowed in CHOICES.items()
        if (value := value_of(cfg, key, None)) is not None and value not in allowed
    ]
    crop = cfg.INPUT.CROP
    if crop.ENABLED and any(not n > 0 for n in crop.SIZE):
        wrong.append(f"INPUT.CROP.SIZE is {crop.SIZE}; each number must be above 0")
    elif crop.ENABLED and crop.TYPE.startswith("relative") and any(n > 1 for n in crop.SIZE):
        wrong.append(f"INPUT.CROP.SIZE is {crop.SIZE}; with INPUT.CROP.TYPE {crop.TYPE} numbers are fractions, 0 to 1")
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and len(cfg.INPUT.MIN_SIZE_TRAIN) != 2:
        wrong.append(
            f"INPUT.MIN_SIZE_TRAIN is {cfg.INPUT.MIN_SIZE_TRAIN}; with INPUT.MIN_SIZE_TRAIN_SAMPLING range it has "
            "two numbers, the least and the greatest size"
        )
    if not len(cfg.INPUT.MIN_SIZE_TRAIN):
        wrong.append("INPUT.MIN_SIZE_TRAIN is empty; it needs at least one size")
    if wrong:
        raise ValueError("; ".join(wrong))


def check_data_names(cfg: CfgNode, *, training: bool) -> None:
    """There must be data sets to train on, or to score on.

    Args:
        cfg: DATASETS is read.
        training: whether DATASETS.TRAIN counts, or DATASETS.TEST.

    Raises:
        ValueError: the key is empty, as it is without a config file.
    """
    key = "TRAIN" if training else "TEST"
    if not cfg.DATASETS[key]:
        raise ValueError(
            f"DATASETS.{key} is empty: name a config file (--config-file configs/fapn/mask_rcnn_R_50_FaPN_1x.yaml), "
            f"or data sets (DATASETS.{key} \"('coco_2017_val',)\"). datasets/README.md lists data sets and "
            "explains how to add your own"
        )


def warn_of_warmup(cfg: CfgNode) -> None:
    """Warn of a warm-up that does not end in the training: the learning rate never gets to SOLVER.BASE_LR."""
    warmup, iterations = cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.MAX_ITER
    if warmup >= iterations and cfg.SOLVER.WARMUP_FACTOR < 1:
        logger.warning(
            "SOLVER.WARMUP_ITERS is %d and SOLVER.MAX_ITER is %d: the learning rate stays below SOLVER.BASE_LR, and "
            "the network may learn next to nothing. Set SOLVER.WARMUP_ITERS to %d or less.",
            *(warmup, iterations, iterations // 10),
        )


def _numbers(value: Any) -> Iterator[float]:
    for number in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(number, (int, float)):
            yield number
