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


def without_sync_bn(model: nn.Module) -> nn.Module:
    """Replace SyncBN by BatchNorm where it cannot or need not work: in one process, and on the CPU.

    Parameters, statistics and their names stay. Says so once, when something was replaced.
    """
    on_cuda = any(p.is_cuda for p in model.parameters())
    if comm.get_world_size() > 1 and on_cuda:
        return model
    count = sum(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
    if not count:
        return model
    if comm.get_world_size() == 1:
        logger.info("One process: %d SyncBN layers work as BatchNorm.", count)
    else:
        logger.warning(
            "PyTorch's SyncBN needs CUDA: %d layers work as BatchNorm, each process with its own statistics.", count
        )
    return _replace(model)


def _replace(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.SyncBatchNorm):
        parameter = next(module.parameters(), module.running_mean)
        plain = nn.BatchNorm2d(
            module.num_features,
            eps=module.eps,
            momentum=module.momentum,
            affine=module.affine,
            track_running_stats=module.track_running_stats,
            device=None if parameter is None else parameter.device,
            dtype=None if parameter is None else parameter.dtype,
        )
        plain.load_state_dict(module.state_dict())
        for own, replaced in zip(plain.parameters(), module.parameters()):
            own.requires_grad_(replaced.requires_grad)
        return plain.train(module.training)
    for name, child in module.named_children():
        module.add_module(name, _replace(child))
    return module
