"""The choices of the benchmark's user, and how they are applied to a module."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import nn

from ..inference.realtime import check_cuda_graph, graphed
from ..layers.deform_conv.backend import set_backend

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PASSES = ("forward", "forward+backward")
#: What is timed as one frame in the suite "speed".
TIMED = {
    "logits": "uint8 image to logits of its pixels",
    "labels": "uint8 image to labels of its pixels",
    "host": "uint8 image in the host's memory to labels there",
}


@dataclass(frozen=True)
class Options:
    """Lists whose product is the settings that are compared, and switches for all of them."""

    device: torch.device
    images: tuple[tuple[int, int], ...]  # (height, width) in pixels
    batches: tuple[int, ...]
    dtypes: tuple[str, ...]  # names in DTYPES; half precisions run under autocast
    passes: tuple[str, ...]  # names in PASSES
    strides: tuple[int, ...] = (4, 8, 16)  # ops: levels of the pyramid
    channels: int = 256  # ops
    groups: int = 8  # ops: offset groups
    operators: tuple[str, ...] = ("deform", "flow")  # ops
    configs: tuple[tuple[str, ...], ...] = ()  # neck, model, train: groups to compare, the reference first in each
    overrides: tuple[str, ...] = ()  # KEY VALUE ... for every config
    channels_last: bool = False
    compile: bool = False
    cuda_graph: bool = False
    fold_norms: bool = False  # speed
    timed: str = "logits"  # speed: a name in TIMED

    def check(self, suite: str) -> "Options":
        """Return the options. Raises ValueError for choices that have no effect in this suite or on this device."""
        if self.cuda_graph:
            check_cuda_graph(self.device)
        if self.cuda_graph and suite not in ("ops", "neck", "speed"):
            raise ValueError(f"--cuda-graph records passes of ops, neck and speed; {suite} has varying sizes")
        if suite != "speed" and (self.fold_norms or self.timed != "logits"):
            raise ValueError(f"--fold-bn and --timed are for the suite speed, not {suite}")
        if self.cuda_graph and "forward+backward" in self.passes:
            raise ValueError("--cuda-graph records inference only: add --passes forward")
        if "fp16" in self.dtypes and self.device.type == "cpu":
            raise ValueError("fp16 is for CUDA: processors have no fast float16 arithmetic; use bf16 or float32")
        if self.channels % self.groups:
            raise ValueError(f"--groups {self.groups} must divide --channels {self.channels}")
        return self

    def autocast(self, dtype: str) -> AbstractContextManager:
        return torch.autocast(self.device.type, dtype=DTYPES[dtype], enabled=dtype != "float32")

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def prepared(self, function: Callable | nn.Module) -> Callable | nn.Module:
        """``function``, compiled for exactly the sizes it will get if ``compile`` is set."""
        if not self.compile:
            return function
        torch.compiler.reset()  # earlier settings would count towards the limit of recompilations
        return torch.compile(function, dynamic=False)

    def recorded(self, call: Callable[[], Any], backend: str) -> Callable[[], Any]:
        """A forward pass without arguments, replayed from a CUDA graph if ``cuda_graph`` is set."""
        if not self.cuda_graph:
            return call
        return with_backend(backend, graphed)(call)


def with_backend(backend: str, call: Callable) -> Callable:
    """``call`` with the deformable convolution computed by ``backend`` (see `set_backend`)."""

    @wraps(call)
    def run(*args):
        previous = set_backend(backend)
        try:
            return call(*args)
        finally:
            set_backend(previous)

    return run
