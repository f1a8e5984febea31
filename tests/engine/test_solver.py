"""Schedules against hand numbers and Detectron2's, optimizers against their keys."""

import pytest
import torch
from detectron2.solver import build_lr_scheduler as build_detectron2_lr_scheduler

from fapn_d2.config.loading import load_config
from fapn_d2.engine.solver import Poly, build_lr_scheduler, build_optimizer


def network() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))


def rates(cfg, build=build_lr_scheduler) -> list[float]:
    optimizer = torch.optim.SGD(network().parameters(), lr=cfg.SOLVER.BASE_LR)
    scheduler, values = build(cfg, optimizer), []
    for _ in range(cfg.SOLVER.MAX_ITER):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


def poly(*opts: str):
    base = ["SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR", "SOLVER.MAX_ITER", "10", "SOLVER.BASE_LR", "2.0"]
    return load_config("", [*base, "SOLVER.WARMUP_ITERS", "0", "SOLVER.POLY_LR_POWER", "2.0", *opts])


def test_poly():
    assert rates(poly()) == pytest.approx([2 * (1 - n / 10) ** 2 for n in range(10)])
    floored = [max(2 * (1 - n / 10) ** 2, 0.5) for n in range(10)]
    assert rates(poly("SOLVER.POLY_LR_CONSTANT_ENDING", "0.25")) == pytest.approx(floored)


def test_poly_is_the_formula_to_the_last_bit():
    for power in (0.9, 1.0, 2.0):
        for done in (0.0, 1 / 3, 0.7, 0.999, 1.0):
            assert Poly(power)(done) == (1.0 - done) ** power
            assert Poly(power, floor=0.125)(done) == max((1.0 - done) ** power, 0.125)


def test_poly_warms_up_in_a_line():
    values = rates(poly("SOLVER.WARMUP_ITERS", "4", "SOLVER.WARMUP_FACTOR", "0.5"))
    at_end = 2 * (1 - 4 / 10) ** 2
    assert values[:4] == pytest.approx([1.0 + (at_end - 1.0) * n / 4 for n in range(4)])
    assert values[4:] == pytest.approx([2 * (1 - n / 10) ** 2 for n in range(4, 10)])


def test_poly_is_deeplabs_after_the_warm_up():
    deeplab = pytest.importorskip("detectron2.projects.deeplab")
    cfg = poly("SOLVER.WARMUP_ITERS", "3", "SOLVER.POLY_LR_CONSTANT_ENDING", "0.1")
    before = (cfg.SOLVER.POLY_LR_POWER, cfg.SOLVER.POLY_LR_CONSTANT_ENDING)
    assert rates(cfg)[3:] == pytest.approx(rates(cfg, deeplab.build_lr_scheduler)[3:])
    deeplab.add_deeplab_config(cfg)  # the keys do not clash, and have the same defaults
    defaults = load_config()
    assert cfg.SOLVER.POLY_LR_POWER == defaults.SOLVER.POLY_LR_POWER and before == (2.0, 0.1)


@pytest.mark.parametrize("name", ["WarmupMultiStepLR", "WarmupCosineLR"])
def test_the_others_are_detectron2s(name):
    cfg = load_config("", ["SOLVER.LR_SCHEDULER_NAME", name, "SOLVER.MAX_ITER", "9", "SOLVER.STEPS", "(4,)"])
    cfg.SOLVER.WARMUP_ITERS = 2
    assert rates(cfg) == rates(cfg, build_detectron2_lr_scheduler)


def test_optimizers():
    cfg = load_config("", ["SOLVER.BASE_LR", "0.1", "SOLVER.WEIGHT_DECAY", "0.5", "SOLVER.WEIGHT_DECAY_NORM", "0.25"])
    sgd = build_optimizer(cfg, network())
    assert type(sgd) is torch.optim.SGD and sgd.defaults["momentum"] == cfg.SOLVER.MOMENTUM
    assert sorted((len(g["params"]), g["weight_decay"]) for g in sgd.param_groups) == [(2, 0.25), (2, 0.5)]
    cfg.SOLVER.OPTIMIZER = "AdamW"
    adam = build_optimizer(cfg, network())
    assert type(adam) is torch.optim.AdamW
    assert sorted((len(g["params"]), g["weight_decay"]) for g in adam.param_groups) == [(2, 0.25), (2, 0.5)]


def test_gradients_are_clipped():
    clip = ["SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.5"]
    cfg = load_config("", ["SOLVER.BASE_LR", "1.0", "SOLVER.WEIGHT_DECAY", "0", "SOLVER.MOMENTUM", "0", *clip])
    model = torch.nn.Linear(1, 1, bias=False)
    before = model.weight.item()
    (100 * model(torch.ones(1, 1))).sum().backward()
    build_optimizer(cfg, model).step()
    assert model.weight.item() == pytest.approx(before - 0.5)


def test_unknown_names():
    cfg = load_config("", ["SOLVER.OPTIMIZER", "adamw", "SOLVER.LR_SCHEDULER_NAME", "Poly"])
    with pytest.raises(ValueError, match=r"SOLVER.OPTIMIZER is 'adamw'; allowed are \"SGD\", \"AdamW\""):
        build_optimizer(cfg, network())
    with pytest.raises(ValueError, match=r"SOLVER.LR_SCHEDULER_NAME is 'Poly'; allowed are .*WarmupPolyLR"):
        rates(cfg)


def test_all_gradients_are_clipped_together():
    """Gradients 3 and 4 have the norm 5; clipped to 1 they keep their ratio, unlike with "norm"."""
    clip = ["SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "1.0"]
    plain = ["SOLVER.BASE_LR", "1.0", "SOLVER.WEIGHT_DECAY", "0", "SOLVER.MOMENTUM", "0"]
    for kind, expected in (("full_model", (-0.6, -0.8)), ("norm", (-1.0, -1.0))):
        cfg = load_config("", [*plain, *clip, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", kind])
        model = torch.nn.ModuleList([torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)])
        optimizer = build_optimizer(cfg, model)
        for layer, gradient in zip(model, (3.0, 4.0)):
            torch.nn.init.zeros_(layer.weight)
            layer.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
        assert [layer.weight.item() for layer in model] == pytest.approx(expected, abs=1e-5)
