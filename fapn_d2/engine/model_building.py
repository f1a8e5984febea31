"""The model of a config, with names that no registry knows reported as the user's mistake."""

import difflib
import logging
import re

import detectron2.modeling
from detectron2.config import CfgNode
from detectron2.modeling import build_model as build_detectron2_model
from fvcore.common.registry import Registry
from torch import nn

from .parallel import without_sync_bn

logger = logging.getLogger(__name__)


def build_model(cfg: CfgNode) -> nn.Module:
    """The model of MODEL.META_ARCHITECTURE on MODEL.DEVICE, without SyncBN where that cannot work.

    Raises:
        ValueError: a name in the config that its registry does not have; the nearest are named.
    """
    try:
        model = build_detectron2_model(cfg)
    except KeyError as error:
        unknown = re.search(r"No object named '(.+)' found in '(.+)' registry", str(error))
        if unknown is None:
            raise
        raise ValueError(_not_registered(*unknown.groups())) from error
    logger.info("%s with %.2f M parameters", type(model).__name__, sum(p.numel() for p in model.parameters()) / 1e6)
    return without_sync_bn(model)


def _not_registered(name: str, registry_name: str) -> str:
    registries = [r for r in vars(detectron2.modeling).values() if isinstance(r, Registry)]
    known = [key for registry in registries if registry._name == registry_name for key, _ in registry]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"the config names {name!r}, which the registry {registry_name} does not have; near: {', '.join(near)}"
