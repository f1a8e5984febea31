"""Make a recipe small, to try a row of the ledger on a small machine or with few images."""

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode

from ..config.lookup import value_of

#: The smallest side after shrinking, in pixels: a map of stride 32 then has four positions.
MIN_SIDE = 128
#: The smallest batch: batch normalization on a single position of a single image has no variance.
MIN_BATCH = 2


def shrinking(cfg: CfgNode, factor: float, *, processes: int = 1) -> list[Any]:
    """KEY VALUE pairs that make a recipe smaller; nothing else changes.

    - iterations, the steps of the schedule, warm-up and the period of evaluation: times ``factor``;
    - images per batch: times ``factor``, at least two and a multiple of ``processes``; the rate changes in proportion;
    - sides of images and crops, in training and testing: all times the same factor, so that none is below 128 pixels.

    Args:
        cfg: the recipe; it is not changed.
        factor: the factor of the reduction, in (0, 1].
        processes: the number of processes; IMS_PER_BATCH becomes a multiple of it.

    Raises:
        ValueError: ``factor`` is not in (0, 1].
    """
    if not 0 < factor <= 1:
        raise ValueError(f"--shrink must be above 0 and at most 1, got {factor}")
    return [*_schedule(cfg.SOLVER, cfg.TEST, factor), *_batch(cfg.SOLVER, factor, processes), *_sizes(cfg, factor)]


def _schedule(solver: CfgNode, test: CfgNode, factor: float) -> list[Any]:
    iterations = max(1, round(solver.MAX_ITER * factor))
    steps = sorted({round(step * factor) for step in solver.STEPS} & set(range(1, iterations)))
    changed = ["SOLVER.MAX_ITER", iterations, "SOLVER.STEPS", steps]
    changed += ["SOLVER.WARMUP_ITERS", round(solver.WARMUP_ITERS * factor)]
    if test.EVAL_PERIOD > 0:
        changed += ["TEST.EVAL_PERIOD", max(1, round(test.EVAL_PERIOD * factor))]
    return changed


def _batch(solver: CfgNode, factor: float, processes: int) -> list[Any]:
    wanted = max(MIN_BATCH, solver.IMS_PER_BATCH * factor)
    batch = processes * max(1, round(wanted / processes))
    if batch < MIN_BATCH:
        batch += processes
    batch = min(batch, solver.IMS_PER_BATCH)
    if batch == solver.IMS_PER_BATCH:
        return []
    return ["SOLVER.IMS_PER_BATCH", batch, "SOLVER.BASE_LR", solver.BASE_LR * batch / solver.IMS_PER_BATCH]


def _sizes(cfg: CfgNode, factor: float) -> list[Any]:
    keys = ["INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST"]
    if cfg.INPUT.SCALE_CROP.ENABLED:
        keys += ["INPUT.SCALE_CROP.SIZE"]
    else:
        keys += ["INPUT.MIN_SIZE_TRAIN", "INPUT.MAX_SIZE_TRAIN"]
        if cfg.INPUT.CROP.ENABLED and cfg.INPUT.CROP.TYPE.startswith("absolute"):  # others are fractions of the image
            keys += ["INPUT.CROP.SIZE"]
    if cfg.TEST.AUG.ENABLED:
        keys += ["TEST.AUG.MIN_SIZES", "TEST.AUG.MAX_SIZE"]
    sides = {key: value_of(cfg, key) for key in keys}
    given = [side for value in sides.values() for side in _listed(value) if side > 0]  # 0: the size of the image
    factor = min(1.0, max(factor, MIN_SIDE / min(given)))
    if cfg.TEST.SEM_SEG.MODE == "slide":  # added after the factor: rows that differ only in testing share a training
        sides["TEST.SEM_SEG.CROP_SIZE"] = cfg.TEST.SEM_SEG.CROP_SIZE
    changed: list[Any] = []
    for key, value in sides.items():
        smaller = [round(side * factor) for side in _listed(value)]
        if smaller != _listed(value):
            changed += [key, smaller if isinstance(value, (tuple, list)) else smaller[0]]
    if cfg.INPUT.SCALE_CROP.ENABLED and factor < 1:  # so that a crop shows as much of the image as before
        changed += ["INPUT.SCALE_CROP.SCALES", [scale * factor for scale in cfg.INPUT.SCALE_CROP.SCALES]]
    return changed


def _listed(value: int | Sequence[int]) -> list[int]:
    return list(value) if isinstance(value, (tuple, list)) else [value]
