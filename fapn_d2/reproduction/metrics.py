"""Where the papers' numbers are in the results of our evaluators.

A ledger names numbers as ``AP_mask`` or ``mIoU_3px``; evaluators return ``{"segm": {"AP": ...}, ...}``.
"""

import math
from collections.abc import Mapping
from typing import Any

_SIZES = {"": "", "50": "50", "75": "75", "s": "s", "m": "m", "l": "l"}
_CITYSCAPES = {  # SFNet's Table 5 -> the data set
    "swalk": "sidewalk",
    "build": "building",
    "tlight": "traffic light",
    "sign": "traffic sign",
    "veg": "vegetation",
    "mbike": "motorcycle",
    "bike": "bicycle",
} | {
    name: name
    for name in ("road", "wall", "fence", "pole", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train")
}
#: Number of a paper -> (task, name) in our results. The first pair that the results have counts.
PLACES: dict[str, tuple[tuple[str, str], ...]] = {
    **{f"AP{size}": (("bbox", f"AP{size}"),) for size in _SIZES},
    **{f"AP{size}_mask": (("segm", f"AP{size}"),) for size in _SIZES},
    **{f"AR{n}": (("box_proposals", f"AR@{limit}"),) for n, limit in (("100", 100), ("1k", 1000))},
    **{f"AR1k_{size}": (("box_proposals", f"AR{size}@1000"),) for size in "sml"},
    **{f"AR{size}": (("mask_proposals", f"AR{size}@1000"),) for size in ("", *"sml")},
    **dict.fromkeys(("mIoU", "mIoU_val", "mIoU_ss"), (("sem_seg", "IoU"), ("sem_seg", "mIoU"))),
    "mIoU_ms": (("sem_seg_TTA", "mIoU"),),
    **{name: (("sem_seg", name),) for name in ("iIoU", "IoU_sup", "iIoU_sup")},
    "fIoU": (("sem_seg", "fwIoU"),),
    **{f"mIoU_{n}px": (("sem_seg", f"boundary_mIoU_{n}px"),) for n in (3, 5, 8, 12)},
    "mIoU_boundary_mean": (("sem_seg", "boundary_mIoU"),),
    **{f"IoU_{short}": (("sem_seg", f"IoU-{name}"),) for short, name in _CITYSCAPES.items()},
    **{name: (("panoptic_seg", name),) for name in ("PQ", "PQ_th", "PQ_st", "SQ", "RQ")},
}
#: Numbers of a network that a row may record: operations in billions and in trillions, activations in billions.
COUNTED = ("gflops", "flops_T", "memory_Gact")
#: Numbers of a network whatever its weights are -> how they are found.
OF_ANY_WEIGHTS = {
    "params_M": "counted on the network",
    "gflops": "counted on the network",
    "flops_T": "counted on the network",
    "memory_Gact": "counted on the network",
    "FPS": "timed on the paper's GPU",
    "FPS_tensorrt": "timed on the paper's GPU with TensorRT",
    "inference_s": "timed on the paper's GPU",
    "train_hours_per_epoch": "timed on the paper's GPUs",
}
#: Numbers that no evaluation of a validation set gives -> how they are found.
ELSEWHERE = OF_ANY_WEIGHTS | {
    "mIoU_test": "scored by the data set's server",
}


def find(results: Mapping[str, Any], metric: str, network: str = "") -> float | None:
    """A paper's number in the results of an evaluation; None if they do not have it.

    Args:
        results: ``{task: {name: value}}``, or ``{data set: {task: ...}}``, of which the first data set counts.
        metric: the name of the number in the ledger; ``mIoU_coco`` is mIoU of the row's network named "coco".
        network: the name of the network that was scored, in a row that has several networks.

    Raises:
        ValueError: no evaluator is known to give such a number.
    """
    own = metric.removesuffix(f"_{network}") if network else metric
    if own not in PLACES:
        raise ValueError(f"no evaluator is known to give {metric!r}; known are {', '.join(PLACES)}")
    nested = next(iter(results.values()), None)
    if isinstance(nested, Mapping) and any(isinstance(value, Mapping) for value in nested.values()):
        results = nested
    for task, name in PLACES[own]:
        value = results.get(task, {}).get(name)
        if value is not None and not math.isnan(value):
            return float(value)
    return None
