"""Values of a config by their full key."""

from typing import Any

from detectron2.config import CfgNode

_RAISE = object()


def value_of(cfg: CfgNode, key: str, default: Any = _RAISE) -> Any:
    """The value of a key such as "SOLVER.MAX_ITER".

    Args:
        cfg: any config.
        key: the names of the sections and of the value, with dots.
        default: the result for a key that the config lacks.

    Raises:
        KeyError: the config lacks the key, and there is no default.
    """
    node = cfg
    for part in key.split("."):
        if default is not _RAISE and not (isinstance(node, CfgNode) and part in node):
            return default
        node = node[part]
    return node
