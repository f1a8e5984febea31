"""Optimizers and learning-rate schedules that Detectron2 does not have."""

import math
from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier, WarmupParamScheduler, get_default_optimizer_params
from detectron2.solver import build_lr_scheduler as build_detectron2_lr_scheduler
from detectron2.solver.build import maybe_add_gradient_clipping
from fvcore.common.param_scheduler import ConstantParamScheduler, ParamScheduler, PolynomialDecayParamScheduler
from torch.optim.lr_scheduler import LRScheduler

_SCHEDULES = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupPolyLR", "WarmupTimesPolyLR")


def build_optimizer(cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
    """SOLVER.OPTIMIZER "SGD" or "AdamW", with Detectron2's keys for learning rates, weight decay and clipping.

    SOLVER.BACKBONE_MULTIPLIER and WEIGHT_DECAY_EMBED are MaskFormer's: see config/keys.py.
    SOLVER.CLIP_GRADIENTS.CLIP_TYPE may also be "full_model". It clips the norm of all gradients together, as
    mmdetection does. Detectron2's "norm" clips the gradient of each parameter separately.

    Raises:
        ValueError: SOLVER.OPTIMIZER is another name.
    """
    params = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
        lr_factor_func=_backbone_factor(cfg.SOLVER.BACKBONE_MULTIPLIER),
    )
    if cfg.SOLVER.WEIGHT_DECAY_EMBED is not None:
        params = _with_weight_decay(params, _embeddings(model), cfg.SOLVER.WEIGHT_DECAY_EMBED)
    common = {"lr": cfg.SOLVER.BASE_LR, "weight_decay": cfg.SOLVER.WEIGHT_DECAY}
    if cfg.SOLVER.OPTIMIZER == "SGD":
        momentum = {"momentum": cfg.SOLVER.MOMENTUM, "nesterov": cfg.SOLVER.NESTEROV}
        optimizer = torch.optim.SGD(params, **common, **momentum)
    elif cfg.SOLVER.OPTIMIZER == "AdamW":
        optimizer = torch.optim.AdamW(params, **common)
    else:
        raise ValueError(f'SOLVER.OPTIMIZER is {cfg.SOLVER.OPTIMIZER!r}; allowed are "SGD", "AdamW"')
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if clip.ENABLED and clip.CLIP_TYPE == "full_model":
        return _clip_whole_model(optimizer, clip.CLIP_VALUE, clip.NORM_TYPE)
    return maybe_add_gradient_clipping(cfg, optimizer)


def _backbone_factor(factor: float) -> Callable[[str], float] | None:
    """A function from a parameter's name to the factor of its learning rate; None if the factor is 1."""
    if factor == 1.0:
        return None
    return lambda name: factor if "backbone" in name.rpartition(".")[0] else 1.0


def _embeddings(model: torch.nn.Module) -> set[torch.nn.Parameter]:
    """Learnt queries and position tables: the parameters of ``nn.Embedding``, and Swin's tables, found by name."""
    found = {p for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters(recurse=False)}
    tables = ("relative_position_bias_table", "absolute_pos_embed")
    return found | {p for name, p in model.named_parameters() if name.endswith(tables)}


def _with_weight_decay(params: list[dict], chosen: set[torch.nn.Parameter], value: float) -> list[dict]:
    """Detectron2's parameter groups with another weight decay for some of the parameters."""
    groups = []
    for group in params:
        inside = [p for p in group["params"] if p in chosen]
        outside = [p for p in group["params"] if p not in chosen]
        groups += [{**group, "params": outside}] if outside else []
        groups += [{**group, "params": inside, "weight_decay": value}] if inside else []
    return groups


def _clip_whole_model(optimizer: torch.optim.Optimizer, max_norm: float, norm_type: float) -> torch.optim.Optimizer:
    """Clip before every step, after the exchange of gradients and after loss scaling was undone."""

    def clip(optimizer, args, kwargs):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, max_norm, norm_type)

    optimizer.register_step_pre_hook(clip)
    return optimizer


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """The schedule SOLVER.LR_SCHEDULER_NAME: one of Detectron2's, "WarmupPolyLR" or "WarmupTimesPolyLR".

    Raises:
        ValueError: SOLVER.LR_SCHEDULER_NAME is another name.
    """
    name = cfg.SOLVER.LR_SCHEDULER_NAME
    if name not in ("WarmupPolyLR", "WarmupTimesPolyLR"):
        try:
            return build_detectron2_lr_scheduler(cfg, optimizer)
        except ValueError as error:
            if "Unknown LR scheduler" not in str(error):
                raise
            raise ValueError(f"SOLVER.LR_SCHEDULER_NAME is {name!r}; allowed are {', '.join(_SCHEDULES)}") from error
    poly = Poly(cfg.SOLVER.POLY_LR_POWER, floor=cfg.SOLVER.POLY_LR_CONSTANT_ENDING)
    times = name == "WarmupTimesPolyLR"
    multiplier = WarmupParamScheduler(
        ConstantParamScheduler(1.0) if times else poly,
        cfg.SOLVER.WARMUP_FACTOR,
        min(cfg.SOLVER.WARMUP_ITERS / cfg.SOLVER.MAX_ITER, 1.0),
        cfg.SOLVER.WARMUP_METHOD,
    )
    multiplier = Product(multiplier, poly) if times else multiplier
    return LRMultiplier(optimizer, multiplier=multiplier, max_iter=cfg.SOLVER.MAX_ITER)


class Product(ParamScheduler):
    """The product of schedules. DeepLab and MaskFormer multiply the warm-up and the main schedule."""

    def __init__(self, *schedules: ParamScheduler):
        self.schedules = schedules

    def __call__(self, where: float) -> float:
        return math.prod(schedule(where) for schedule in self.schedules)


class Poly(PolynomialDecayParamScheduler):
    """max((1 - t)^power, floor), where t in [0, 1] is the completed fraction of the training."""

    def __init__(self, power: float, *, floor: float = 0.0):
        super().__init__(base_value=1.0, power=power)
        self.floor = floor

    def __call__(self, where: float) -> float:
        return max(super().__call__(where), self.floor)
