"""One network in several processes, also on the CPU."""

import contextlib
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

logger = logging.getLogger(__name__)


def distribute(model: nn.Module) -> nn.Module:
    """Wrap a model so that gradients are averaged over the processes. One process gets the model itself.

    Detectron2's ``create_ddp_model`` names a device, which PyTorch refuses for networks on the CPU.

    A model whose ``leaves_parameters_out`` is True may use other parameters in each iteration, the same in all
    processes. Parameters that are not used get no gradient, not a gradient of zero, so that neither momentum nor weight
    decay moves them.
    """
    if comm.get_world_size() == 1:
        return model
    on_cuda = next(model.parameters()).is_cuda
    device_ids = [torch.cuda.current_device()] if on_cuda else None
    # Each process keeps its own statistics of BatchNorm, as in Detectron2. SyncBN shares them.
    return DistributedDataParallel(
        model,
        device_ids=device_ids,
        broadcast_buffers=False,
        find_unused_parameters=getattr(model, "leaves_parameters_out", False),
    )


def share_buffers(model: nn.Module) -> None:
    """Copy the buffers of rank 0, which checkpoints contain, to all processes.

    Each process has its own statistics of BatchNorm. Without this copy, each process would evaluate another network
    than the saved one. All processes must call this function.
    """
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def end_with_parent(parent: int | None = None) -> None:
    """Let the system end this process when its parent dies, on Linux. It could otherwise train on for ever.

    Args:
        parent: the process number of the parent. If it has died before this call, this process ends now.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def waiting_at_most(minutes: float, *, otherwise: float) -> Iterator[None]:
    """In this context, an operation between processes fails after ``minutes``; after the context, after ``otherwise``.

    One process scores a large data set while the others wait, but in training nobody should wait for long.
    """
    _set_timeout(minutes)
    try:
        yield
    finally:
        _set_timeout(otherwise)


def _set_timeout(minutes: float) -> None:
    if comm.get_world_size() == 1:
        return
    set_timeout = getattr(dist.distributed_c10d, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
    for group in {dist.group.WORLD, comm._get_global_gloo_group()}:  # Detectron2 exchanges objects in the second one
        set_timeout(timedelta(minutes=minutes), group)
