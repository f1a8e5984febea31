"""Two processes on the CPU, one of which has neither objects nor regions in its images: each gets every gradient."""

import socket

import pytest
import torch
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from ..toys.panoptic_fcn import panoptic_inputs, toy_network


def steps(rank, port):
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    model = toy_network().train()
    wrapped = DistributedDataParallel(model, broadcast_buffers=False)
    for iteration in range(2):
        empty = (rank + iteration) % 2
        model.zero_grad()
        losses = wrapped(panoptic_inputs((0, 0) if empty else (3, 2), labels=not empty))
        assert (losses["loss_seg_th"] == 0) == bool(empty)  # normalised by the objects of this process
        sum(losses.values()).backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        gathered = [torch.empty_like(gradient) for _ in range(2)]
        distributed.all_gather(gathered, gradient)
        assert torch.equal(*gathered) and gradient.isfinite().all()
    distributed.destroy_process_group()


@pytest.mark.slow
def test_every_process_gets_every_gradient():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(steps, (port,), nprocs=2)
