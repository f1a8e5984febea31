"""From a config and weights to a network that is ready to predict. All commands use this."""

from collections.abc import Callable, Sequence

import torch
from detectron2.config import CfgNode
from torch import nn

from ..checkpoint.checkpointer import Checkpointer
from ..config.loading import load_config
from ..config.values import check_values
from ..meta_arch.build import build_model


def use_available_device(cfg: CfgNode) -> None:
    """Set MODEL.DEVICE (of a config that is not frozen) to "cpu" if it names CUDA and this machine has no GPU."""
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"


def trained_config(config_file: str, *, weights: str | None = "", opts: Sequence[str] = ()) -> CfgNode:
    """The config of a command that works with a trained network, for a device that this machine has. Not frozen.

    Args:
        config_file: a YAML file.
        weights: a checkpoint, which replaces MODEL.WEIGHTS; "" or None keeps it.
        opts: ``["KEY", "value", ...]``, which override the config, but not ``weights``.

    Raises:
        ValueError, FileNotFoundError: see ``load_config``.
    """
    cfg = load_config(config_file, opts)
    if weights:
        cfg.MODEL.WEIGHTS = weights
    check_values(cfg)
    use_available_device(cfg)
    return cfg


def load_trained(
    cfg: CfgNode,
    *,
    name: str = "the network",
    device: str = "",
    allow_partial: bool = False,
    check: Callable[[nn.Module], object] | None = None,
) -> nn.Module:
    """The network of a config, filled with MODEL.WEIGHTS, in evaluation mode.

    Args:
        cfg: a config from ``load_config``; it is not changed.
        name: the name of the network in error messages.
        device: replaces MODEL.DEVICE; "" keeps it.
        allow_partial: accept weights that are missing or do not fit, with a warning.
        check: called with the network before the weights are read; it raises an error if the network is not suitable.

    Raises:
        ValueError: MODEL.WEIGHTS is empty, or the weights do not fit.
        FileNotFoundError: the file of the weights does not exist.
    """
    if not cfg.MODEL.WEIGHTS:
        raise ValueError(f"{name} has no weights: name a checkpoint, as in MODEL.WEIGHTS output/model_final.pth")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = device or cfg.MODEL.DEVICE
    use_available_device(cfg)
    model = build_model(cfg)
    if check is not None:
        check(model)
    Checkpointer(model, cfg=cfg, allow_partial=allow_partial).load(cfg.MODEL.WEIGHTS)
    return model.eval()
