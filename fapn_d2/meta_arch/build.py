"""The model of a config; names that are not registered are reported as errors of the user."""

import logging
import re

import detectron2.modeling
from detectron2.config import CfgNode
from detectron2.modeling import build_model as build_detectron2_model
from detectron2.utils import comm
from fvcore.common.registry import Registry
from torch import nn

from ..messages import nearest
from .freezing import freeze_parts

logger = logging.getLogger(__name__)


def build_model(cfg: CfgNode) -> nn.Module:
    """The model of MODEL.META_ARCHITECTURE on MODEL.DEVICE, without SyncBN where that cannot work.

    The parts in MODEL.FREEZE_PARTS are frozen.

    Raises:
        ValueError: a name in the config that its registry does not have, or a part that the network does not have; the
            nearest are named.
    """
    try:
        model = build_detectron2_model(cfg)
    except KeyError as error:
        unknown = re.search(r"No object named '(.+)' found in '(.+)' registry", str(error))
        if unknown is None:
            raise
        raise ValueError(_not_registered(*unknown.groups())) from error
    logger.info("%s with %.2f M parameters", type(model).__name__, sum(p.numel() for p in model.parameters()) / 1e6)
    return freeze_parts(without_sync_bn(model), cfg.MODEL.FREEZE_PARTS)


def _not_registered(name: str, registry_name: str) -> str:
    registries = [r for r in vars(detectron2.modeling).values() if isinstance(r, Registry)]
    known = [key for registry in registries if registry._name == registry_name for key, _ in registry]
    near = nearest(name, known, cutoff=0.4)
    return f"the config names {name!r}, which the registry {registry_name} does not have{near}"


def without_sync_bn(model: nn.Module) -> nn.Module:
    """Replace SyncBN by BatchNorm where it cannot or need not work: in one process, and on the CPU.

    Parameters, statistics and their names do not change. A message says when something was replaced.
    """
    on_cuda = any(p.is_cuda for p in model.parameters())
    if comm.get_world_size() > 1 and on_cuda:
        return model
    count = sum(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
    if not count:
        return model
    if comm.get_world_size() == 1:
        logger.info("One process: %d SyncBN layers work as BatchNorm.", count)
    else:
        logger.warning(
            "PyTorch's SyncBN needs CUDA: %d layers work as BatchNorm, each process with its own statistics.", count
        )
    return _replace(model)


def _replace(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.SyncBatchNorm):
        parameter = next(module.parameters(), module.running_mean)
        plain = nn.BatchNorm2d(
            module.num_features,
            eps=module.eps,
            momentum=module.momentum,
            affine=module.affine,
            track_running_stats=module.track_running_stats,
            device=None if parameter is None else parameter.device,
            dtype=None if parameter is None else parameter.dtype,
        )
        plain.load_state_dict(module.state_dict())
        for own, replaced in zip(plain.parameters(), module.parameters()):
            own.requires_grad_(replaced.requires_grad)
        return plain.train(module.training)
    for name, child in module.named_children():
        module.add_module(name, _replace(child))
    return module
