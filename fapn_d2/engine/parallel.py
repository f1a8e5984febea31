"""One network in several processes, also on the CPU."""

import logging

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

logger = logging.getLogger(__name__)


def distribute(model: nn.Module) -> nn.Module:
    """Average gradients over the processes; the model itself if there is only one.

    Detectron2's ``create_ddp_model`` names a device, which PyTorch refuses for networks on the CPU.
    """
    if comm.get_world_size() == 1:
        return model
    on_cuda = next(model.parameters()).is_cuda
    device_ids = [torch.cuda.current_device()] if on_cuda else None
    # Statistics of BatchNorm stay each process's own, as in Detectron2; SyncBN is there to share them.
    return DistributedDataParallel(model, device_ids=device_ids, broadcast_buffers=False)


def share_buffers(model: nn.Module) -> None:
    """Give all processes the statistics of rank 0, which are those that checkpoints hold.

    Where BatchNorm counts in each process on its own, the scores of a training would otherwise be those of several
    networks, none of them the saved one. To be called by all processes.
    """
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)
