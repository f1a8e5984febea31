"""One network in several processes, also on the CPU."""

import logging

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
