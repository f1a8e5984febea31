"""What the launches of all Triton kernels need: whether they can run, and how tensors lie in memory."""

import os
import shutil
import warnings
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

#: Types of the maps that the kernels read and write.
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def unsupported(x: Tensor) -> str:
    """Why no kernel can run on a map like ``x``; empty if kernels can run."""
    if not x.is_cuda:
        return f"the kernels are for CUDA, not {x.device.type}"
    lacking = missing_toolchain()
    if lacking:
        return f"the kernels need {lacking}"
    if x.dtype not in DTYPES:
        return f"the kernels are for {', '.join(str(d).removeprefix('torch.') for d in DTYPES)}, not {x.dtype}"
    if capability(x.device) < (8, 0):
        return "the kernels need a GPU of compute capability 8.0 or more"
    return ""


def missing_toolchain() -> str:
    """The program or package that Triton's kernels cannot be compiled without and this machine lacks; empty if none."""
    if find_spec("triton") is None:
        return "the package triton"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "a C compiler: gcc, clang or the one that the environment variable CC names"
    return ""


@cache
def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability (major, minor) of a CUDA device."""
    return torch.cuda.get_device_capability(device)


def on_device_of(x: Tensor) -> AbstractContextManager:
    """Launches within this context run on the GPU of ``x``. On the CPU they run in Triton's interpreter."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def dense(t: Tensor) -> Tensor:
    """``t`` with all neighbouring pixels at the same distance in memory: contiguous or channels-last."""
    return t if t.is_contiguous() or t.is_contiguous(memory_format=torch.channels_last) else t.contiguous()


def strides(t: Tensor) -> tuple[int, int, int]:
    """Distances in memory between the images, channels and pixels of a `dense` tensor, in elements."""
    return t.stride(0), t.stride(1), t.stride(3) if t.shape[3] > 1 else t.stride(2)


def alert_not_deterministic(operator: str) -> None:
    """Honour ``torch.use_deterministic_algorithms`` in an operation that has no deterministic algorithm.

    Raises:
        RuntimeError: deterministic algorithms are required. With ``warn_only=True`` this is a warning.
    """
    if not torch.are_deterministic_algorithms_enabled():
        return
    message = (
        f"{operator} has no deterministic gradient of its input on CUDA, and "
        "torch.use_deterministic_algorithms(True) is set; use warn_only=True to go on"
    )
    if not torch.is_deterministic_algorithms_warn_only_enabled():
        raise RuntimeError(message)
    warnings.warn(message, stacklevel=2)


def power_of_two(n: int) -> int:
    """The smallest power of two that is not below ``n``."""
    return 1 << (n - 1).bit_length()
