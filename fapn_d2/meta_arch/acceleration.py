"""Memory layout and compilation of a network for training or evaluation, as the config says."""

import os
import shutil

import torch
from detectron2.config import CfgNode
from torch import nn

from ..layers.triton_support import missing_toolchain

#: MODEL.COMPILE -> ``dynamic`` of ``torch.compile``.
COMPILE_MODES = {"none": None, "dynamic": True, "static": False}


def accelerate(model: nn.Module, cfg: CfgNode) -> nn.Module:
    """Apply MODEL.CHANNELS_LAST and MODEL.COMPILE to a network, in place; returns it.

    Names and values of parameters do not change, so checkpoints are those of the plain network. Call this before the
    network is wrapped in DistributedDataParallel.

    Raises:
        ValueError: an unknown mode, a network without a ``backbone``, or no compiler on this machine.
    """
    if cfg.MODEL.CHANNELS_LAST:
        # The output of a convolution has the layout of its weights, so images need no conversion.
        model.to(memory_format=torch.channels_last)
    if cfg.MODEL.COMPILE not in COMPILE_MODES:
        raise ValueError(f"MODEL.COMPILE is {cfg.MODEL.COMPILE!r}; allowed are {', '.join(map(repr, COMPILE_MODES))}")
    if cfg.MODEL.COMPILE != "none":
        if "backbone" not in dict(model.named_children()):
            raise ValueError(
                f"MODEL.COMPILE compiles the attribute `backbone` of a network, which {type(model).__name__} lacks; "
                'set MODEL.COMPILE "none"'
            )
        check_compiler(next(model.parameters()).device)
        compile_in_place(model.backbone, dynamic=COMPILE_MODES[cfg.MODEL.COMPILE])
    return model


def compile_in_place(module: nn.Module, *, dynamic: bool, backend: str = "inductor") -> None:
    """Compile ``module`` in place at its first call. ``torch.compile(module)`` would add a prefix to parameter names.

    Args:
        module: the module to compile.
        dynamic: True: one program for all sizes of the input; False: one program per size.
        backend: backend of ``torch.compile``.
    """
    module.compile(dynamic=dynamic, backend=backend)


def check_compiler(device: torch.device) -> None:
    """Raises ValueError if ``torch.compile`` cannot work for this device because a program that it needs is missing."""
    if device.type == "cpu":
        found = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
        lacking = "" if found else "a C++ compiler: g++, clang++ or the one that the environment variable CXX names"
    else:
        lacking = missing_toolchain()
    if lacking:
        raise ValueError(f'torch.compile for {device.type} needs {lacking}; install it or set MODEL.COMPILE "none"')
