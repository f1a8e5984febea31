"""Recipes made small: hand numbers."""

import pytest

from fapn_d2.config.loading import load_config
from fapn_d2.reproduction.shrinking import shrinking


def shrunken(factor, processes=1, **keys):
    cfg = load_config("", [part for key, value in keys.items() for part in (key.replace("__", "."), value)])
    changed = shrinking(cfg, factor, processes=processes)
    cfg.merge_from_list(changed)
    return cfg


def test_schedule_and_batch():
    cfg = shrunken(
        0.01,
        SOLVER__MAX_ITER=90000,
        SOLVER__STEPS=(60000, 80000),
        SOLVER__WARMUP_ITERS=1000,
        SOLVER__IMS_PER_BATCH=16,
        SOLVER__BASE_LR=0.02,
        TEST__EVAL_PERIOD=5000,
    )
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS) == (900, (600, 800), 10)
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR) == (2, 0.0025)
    assert cfg.TEST.EVAL_PERIOD == 50


def test_steps_that_fall_together_or_on_the_end_are_dropped():
    cfg = shrunken(0.0001, SOLVER__MAX_ITER=30000, SOLVER__STEPS=(9000, 10000, 29999))
    assert cfg.SOLVER.MAX_ITER == 3 and cfg.SOLVER.STEPS == (1,)
    assert shrunken(1e-9).SOLVER.MAX_ITER == 1


@pytest.mark.parametrize(
    ("factor", "processes", "batch"), [(0.5, 1, 8), (0.5, 3, 9), (0.01, 1, 2), (0.01, 4, 4), (1.0, 1, 16), (0.9, 8, 16)]
)
def test_the_batch_is_a_multiple_of_the_processes(factor, processes, batch):
    cfg = shrunken(factor, processes, SOLVER__IMS_PER_BATCH=16, SOLVER__BASE_LR=0.16)
    assert (batch, pytest.approx(batch / 100)) == (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR)


def test_sides_shrink_alike_and_stop_at_128():
    keys = dict(INPUT__MIN_SIZE_TRAIN=(640, 800), INPUT__MAX_SIZE_TRAIN=1333)
    cfg = shrunken(0.5, **keys)
    assert (cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN) == ((320, 400), 666)
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (400, 666)
    cfg = shrunken(0.001, **keys)
    assert (cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TEST) == ((128, 160), 267)  # 128 / 640 = 0.2
    crop = dict(INPUT__CROP__ENABLED=True, INPUT__CROP__TYPE="absolute", INPUT__CROP__SIZE=[512, 1024])
    cfg = shrunken(0.001, INPUT__MIN_SIZE_TRAIN=(512, 2048), INPUT__MIN_SIZE_TEST=1024, **crop)
    assert (cfg.INPUT.CROP.SIZE, cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST) == ([128, 256], (128, 512), 256)


def test_sizes_that_are_no_pixels_stay():
    relative = dict(INPUT__CROP__ENABLED=True, INPUT__CROP__TYPE="relative", INPUT__CROP__SIZE=[0.9, 0.9])
    cfg = shrunken(0.5, INPUT__MIN_SIZE_TEST=0, **relative)
    assert cfg.INPUT.CROP.SIZE == [0.9, 0.9] and cfg.INPUT.MIN_SIZE_TEST == 0
    cfg = shrunken(0.5, INPUT__MIN_SIZE_TRAIN=(64,), INPUT__MIN_SIZE_TEST=64)
    assert cfg.INPUT.MIN_SIZE_TRAIN == (64,)  # below 128 as it is


def test_crops_of_scaled_images():
    """Scale and crop shrink together, so the crop shows as much of the image as before."""
    keys = {"INPUT__SCALE_CROP__ENABLED": True, "INPUT__SCALE_CROP__SIZE": (512, 1024)}
    cfg = shrunken(0.25, INPUT__SCALE_CROP__SCALES=(0.5, 2.0), INPUT__MIN_SIZE_TEST=1024, **keys)
    assert cfg.INPUT.SCALE_CROP.SIZE == (128, 256) and cfg.INPUT.SCALE_CROP.SCALES == (0.125, 0.5)
    assert cfg.INPUT.MIN_SIZE_TRAIN == (800,)  # not read


@pytest.mark.parametrize("factor", [0, -1, 1.01])
def test_the_factor_is_checked(factor):
    with pytest.raises(ValueError, match="--shrink must be above 0 and at most 1"):
        shrinking(load_config(), factor)


def test_windows_shrink_with_the_images_and_bound_nothing():
    keys = dict(INPUT__MIN_SIZE_TRAIN=(1000,), INPUT__MAX_SIZE_TRAIN=2000, INPUT__MIN_SIZE_TEST=1000)
    windows = dict(TEST__SEM_SEG__MODE="slide", TEST__SEM_SEG__CROP_SIZE=(500, 250))
    cfg = shrunken(0.001, **keys, **windows)
    assert (cfg.INPUT.MIN_SIZE_TRAIN, cfg.TEST.SEM_SEG.CROP_SIZE) == ((128,), (64, 32))
    assert shrunken(0.5, **keys).TEST.SEM_SEG.CROP_SIZE == (864, 864)
