"""Two processes on the CPU, one of which has no object in its images: DistributedDataParallel gets every gradient."""

import socket

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from ..toys.detectors import toy_detector, toy_inputs


def steps(rank, port, one_stage):
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    model = toy_detector(*([] if one_stage else ["MODEL.MASK_ON", True]), one_stage=one_stage).train()
    wrapped = DistributedDataParallel(model, broadcast_buffers=False)
    for iteration in range(2):
        counts = (0, 0) if (rank + iteration) % 2 else (3, 2)
        model.zero_grad()
        with EventStorage():
            sum(wrapped(toy_inputs(counts=counts, masks=None if one_stage else "polygon")).values()).backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        gathered = [torch.empty_like(gradient) for _ in range(2)]
        distributed.all_gather(gathered, gradient)
        assert torch.equal(*gathered) and gradient.any()
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("one_stage", ["", "ConsistentRetinaNet", "ConsistentFCOS"])
def test_every_process_gets_every_gradient(one_stage):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(steps, (port, one_stage), nprocs=2)
