"""What computes a modulated deformable convolution: this project's kernels, or torchvision."""

import logging
import os
from functools import cache
from types import ModuleType

from torch import Tensor

from .. import operator_support
from . import cpu, cuda, torchvision_op

logger = logging.getLogger(__name__)

#: "auto": this project's kernels where they can run and are faster. "torchvision": always torchvision. "triton": this
#: project's kernels on CUDA, and an error where they cannot run.
BACKENDS = ("auto", "torchvision", "triton")
#: Environment variable with the backend that a process starts with.
VARIABLE = "FAPN_DEFORM_CONV"


def set_backend(name: str) -> str:
    """Choose one of `BACKENDS` for this process. Returns the previous choice, so that it can be put back.

    Raises:
        ValueError: another name.
    """
    global _backend
    previous, _backend = _backend, check_backend(name, "set_backend")
    return previous


def get_backend() -> str:
    return _backend


def implementation(x: Tensor, offset: Tensor, weight: Tensor, *, backward: bool) -> ModuleType:
    """The module whose ``forward`` and ``backward`` are to be called on these tensors.

    Raises:
        ValueError: "triton" is chosen and the kernels cannot run; says why.
    """
    if x.device.type == "cpu":
        small = cpu.is_small(x, offset, weight, backward=backward)
        # A NaN offset makes torchvision's CPU operator read wild addresses; a diverged run must end with a message.
        small = small and not offset.isnan().any()
        return torchvision_op if small else cpu
    reason = cuda.unsupported(x, weight)
    if not reason:
        return cuda
    if _backend == "triton":
        raise ValueError(_refused(reason))
    _say_once(reason)
    return torchvision_op


def check_triton(x: Tensor, weight: Tensor) -> None:
    """Raises ValueError, with the reason, if the CUDA kernels cannot run on these tensors. Tensors on the CPU are
    accepted: the CPU has its own kernels."""
    reason = cuda.unsupported(x, weight) if x.device.type != "cpu" else ""
    if reason:
        raise ValueError(_refused(reason))


def check_backend(name: str, source: str) -> str:
    """Returns ``name``; ValueError, which names ``source``, if it is not in `BACKENDS`."""
    return operator_support.check_backend(name, BACKENDS, of="the deformable convolution", source=source)


def _refused(reason: str) -> str:
    return f'backend "triton" of the deformable convolution cannot be used: {reason}'


@cache
def _say_once(reason: str) -> None:
    logger.warning("deformable convolution falls back to torchvision's operator, which is slower: %s", reason)


_backend = check_backend(os.environ.get(VARIABLE, "auto"), VARIABLE)
