"""What the launches of all Triton kernels need: is there a compiler, and how does a tensor lie in memory?"""

import os
import shutil
import warnings
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor


def missing_toolchain() -> str:
    """What Triton's kernels cannot be compiled without and this machine lacks; empty if nothing."""
    if find_spec("triton") is None:
        return "the package triton"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "a C compiler: gcc, clang or the one that the environment variable CC names"
    return ""


@cache
def capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def dense(t: Tensor) -> Tensor:
    """``t`` such that its pixels follow each other at one distance: contiguous or channels-last."""
    return t if t.is_contiguous() or t.is_contiguous(memory_format=torch.channels_last) else t.contiguous()


def strides(t: Tensor) -> tuple[int, int, int]:
    """Distances between images, channels and pixels of a `dense` tensor."""
    return t.stride(0), t.stride(1), t.stride(3) if t.shape[3] > 1 else t.stride(2)


def alert_not_deterministic(operator: str) -> None:
    """What ``torch.use_deterministic_algorithms`` asks of an operation that has no deterministic algorithm."""
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
