"""Numbers of classes that follow from the user's own data sets."""

import logging

from detectron2.config import CfgNode

from ..config.lookup import value_of
from ..messages import some
from .checks import class_keys
from .datasets.catalog import registered_here
from .datasets.custom import class_names, complete_config, register_custom

logger = logging.getLogger(__name__)

_IGNORE_KEY = "MODEL.SEM_SEG_HEAD.IGNORE_VALUE"


def use_custom_data(cfg: CfgNode, chosen: set[str]) -> None:
    """Register the data sets under DATASETS.CUSTOM and let the numbers of classes follow from them.

    The first data set of DATASETS.TRAIN (of DATASETS.TEST where that is empty) counts, if it is one of them.

    Args:
        cfg: not frozen; class names, numbers of classes and IGNORE_VALUE are set in place.
        chosen: keys that the user has set, which stay as they are.

    Raises:
        ValueError, FileNotFoundError: see :func:`register_custom`.
    """
    if not cfg.DATASETS.CUSTOM:
        return
    complete_config(cfg)
    register_custom(cfg)
    for key, (value, _) in _following(cfg).items():
        if key not in chosen:
            section, _, leaf = key.rpartition(".")
            value_of(cfg, section)[leaf] = value


def describe_class_numbers(cfg: CfgNode) -> list[str]:
    """One sentence for each key that has the number of the user's own data set, for the log of a run."""
    return [
        f"{key} is {value}: data set {_deciding(cfg)} {reason}."
        for key, (value, reason) in _following(cfg).items()
        if value_of(cfg, key) == value
    ]


def _deciding(cfg: CfgNode) -> str | None:
    names = cfg.DATASETS.TRAIN or cfg.DATASETS.TEST
    return names[0] if names and names[0] in cfg.DATASETS.get("CUSTOM", {}) and registered_here(names[0]) else None


def _following(cfg: CfgNode) -> dict[str, tuple[int, str]]:
    """Key -> (the value that the data ask for, the reason)."""
    name = _deciding(cfg)
    if name is None:
        return {}
    found = {}
    for kind, names in class_names(name).items():
        for key in class_keys(cfg, kind):
            found[key] = len(names), f"has {len(names)} classes of {kind} ({some(names, sort=False)})"
            if kind == "regions":
                ignored = cfg.DATASETS.CUSTOM[name].get("IGNORE_VALUE", 255)
                found[_IGNORE_KEY] = ignored, f"marks pixels without a class with {ignored}"
    return found
