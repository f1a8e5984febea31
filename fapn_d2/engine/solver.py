"""Optimizers and learning-rate schedules, beyond Detectron2's SGD with steps or cosine."""

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier, WarmupParamScheduler, get_default_optimizer_params
from detectron2.solver import build_lr_scheduler as build_detectron2_lr_scheduler
from detectron2.solver.build import maybe_add_gradient_clipping
from fvcore.common.param_scheduler import PolynomialDecayParamScheduler
from torch.optim.lr_scheduler import LRScheduler

_SCHEDULES = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupPolyLR")


def build_optimizer(cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
    """SOLVER.OPTIMIZER "SGD" or "AdamW", with Detectron2's keys for learning rates, weight decay and clipping.

    SOLVER.CLIP_GRADIENTS.CLIP_TYPE may be "full_model" too: the norm of all gradients together, as mmdetection clips,
    where Detectron2's "norm" clips each parameter's on its own.

    Raises:
        ValueError: another name.
    """
    params = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
    )
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


def _clip_whole_model(optimizer: torch.optim.Optimizer, max_norm: float, norm_type: float) -> torch.optim.Optimizer:
    """Clip before every step: after processes have exchanged gradients, and after loss scaling has been undone."""

    def clip(optimizer, args, kwargs):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, max_norm, norm_type)

    optimizer.register_step_pre_hook(clip)
    return optimizer


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """SOLVER.LR_SCHEDULER_NAME: Detectron2's own, or "WarmupPolyLR".

    Raises:
        ValueError: another name.
    """
    name = cfg.SOLVER.LR_SCHEDULER_NAME
    if name != "WarmupPolyLR":
        try:
            return build_detectron2_lr_scheduler(cfg, optimizer)
        except ValueError as error:
            if "Unknown LR scheduler" not in str(error):
                raise
            raise ValueError(f"SOLVER.LR_SCHEDULER_NAME is {name!r}; allowed are {', '.join(_SCHEDULES)}") from error
    multiplier = WarmupParamScheduler(
        Poly(cfg.SOLVER.POLY_LR_POWER, floor=cfg.SOLVER.POLY_LR_CONSTANT_ENDING),
        cfg.SOLVER.WARMUP_FACTOR,
        min(cfg.SOLVER.WARMUP_ITERS / cfg.SOLVER.MAX_ITER, 1.0),
        cfg.SOLVER.WARMUP_METHOD,
    )
    return LRMultiplier(optimizer, multiplier=multiplier, max_iter=cfg.SOLVER.MAX_ITER)


class Poly(PolynomialDecayParamScheduler):
    """max((1 - t)^power, floor), where t in [0, 1] is the fraction of the training that is done."""

    def __init__(self, power: float, *, floor: float = 0.0):
        super().__init__(base_value=1.0, power=power)
        self.floor = floor

    def __call__(self, where: float) -> float:
        return max(super().__call__(where), self.floor)
