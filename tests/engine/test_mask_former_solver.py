"""MaskFormer's optimizer and schedules against the official ones."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from fapn_d2.checkpoint.keys.maskformer import maskformer_state_to_ours
from fapn_d2.config.loading import load_config
from fapn_d2.engine.solver import build_lr_scheduler, build_optimizer

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "fapn"


@pytest.fixture(scope="module")
def resnet_50():
    cfg = load_config(str(CONFIGS / "mask_former_R_50_FPN_ade20k.yaml"), ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        return cfg, build_model(cfg)


def by_name(model, optimizer):
    names = {p: name for name, p in model.named_parameters()}
    return {names[p]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}


def test_rate_and_decay_of_every_parameter(reference, resnet_50):
    official = json.loads((reference / "maskformer" / "optimizer_r50_fpn.json").read_text())
    cfg, model = resnet_50
    optimizer = build_optimizer(cfg, model)
    assert type(optimizer).__mro__[1] is torch.optim.AdamW or type(optimizer) is torch.optim.AdamW
    assert optimizer.defaults["betas"] == tuple(official["betas"]) and optimizer.defaults["eps"] == official["eps"]
    ours = by_name(model, optimizer)
    values = {name: torch.tensor(value) for name, value in official["lr_and_weight_decay"].items()}
    expected = maskformer_state_to_ours(values)
    assert ours.keys() == expected.keys() and len(ours) == 197
    for name, value in expected.items():
        assert ours[name] == pytest.approx(tuple(value.tolist()), rel=1e-6, abs=1e-12), name
    clip = cfg.SOLVER.CLIP_GRADIENTS
    assert (True, *official["clip"].values()) == (clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE)


def test_schedule(reference, resnet_50):
    official = json.loads((reference / "maskformer" / "optimizer_r50_fpn.json").read_text())
    (key,) = [k for k in official if "factor" in k and isinstance(official[k], dict)]
    cfg, _ = resnet_50
    scheduler = rates(cfg)
    for iteration, factor in official[key].items():
        assert scheduler(int(iteration)) == pytest.approx(factor, rel=1e-9)


def rates(cfg):
    """Iteration -> factor on the rate."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    multiplier = build_lr_scheduler(cfg, optimizer)._multiplier
    return lambda iteration: multiplier(iteration / cfg.SOLVER.MAX_ITER)


def test_swins_warm_up_multiplies():
    cfg = load_config(str(CONFIGS / "mask_former_Swin_L_FaPN_ade20k.yaml"))
    factor = rates(cfg)
    assert factor(0) == pytest.approx(1e-6)
    assert factor(750) == pytest.approx(0.5000005 * 0.995781, rel=1e-6)
    assert factor(80_000) == pytest.approx(0.5**0.9)
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.BACKBONE_MULTIPLIER) == (6e-5, 0.01, 1.0)


def test_position_tables_are_not_decayed():
    cfg = load_config(str(CONFIGS / "mask_former_Swin_L_FPN_ade20k.yaml"), ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        model = build_model(cfg)
    for name, (rate, decay) in by_name(model, build_optimizer(cfg, model)).items():
        assert rate == 6e-5
        undecayed = "norm" in name or name.endswith(("relative_position_bias_table", "query_embed.weight"))
        assert decay == (0.0 if undecayed else 0.01), name


def test_groups_stay_as_they_are_by_default():
    """The state of an optimizer is stored by group."""
    model = torch.nn.Sequential(torch.nn.Embedding(3, 4), torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    plain = build_optimizer(load_config(""), model)
    equal = build_optimizer(load_config("", ["SOLVER.WEIGHT_DECAY_EMBED", 0.5]), model)
    assert len(equal.param_groups) == len(plain.param_groups) + 1
    assert [g["weight_decay"] for g in equal.param_groups if model[0].weight in set(g["params"])] == [0.5]
