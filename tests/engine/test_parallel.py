"""SyncBN where it cannot work becomes BatchNorm with the same parameters."""

import logging

import torch
from detectron2.utils import comm
from torch import nn

from fapn_d2.engine.parallel import distribute, share_buffers
from fapn_d2.meta_arch.build import without_sync_bn


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 1), nn.Sequential(nn.SyncBatchNorm(3, eps=0.1, momentum=0.3)), nn.BatchNorm2d(3)
    )


def test_one_process(caplog):
    model = network()
    with torch.no_grad():
        for value in model.state_dict().values():
            value.copy_(torch.rand(value.shape) if value.is_floating_point() else value)
    model[1][0].weight.requires_grad_(False)
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = model(torch.ones(1, 2, 2, 2))
    with caplog.at_level(logging.INFO):
        replaced = without_sync_bn(model)
    assert "One process: 1 SyncBN layers work as BatchNorm" in caplog.text
    norm = replaced[1][0]
    assert type(norm) is nn.BatchNorm2d and (norm.eps, norm.momentum, norm.training) == (0.1, 0.3, False)
    assert not norm.weight.requires_grad and norm.bias.requires_grad
    assert list(before) == list(replaced.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in replaced.state_dict().items())
    assert torch.equal(replaced(torch.ones(1, 2, 2, 2)), expected)


def test_several_processes_on_the_cpu_are_warned(caplog, monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    without_sync_bn(network())
    assert "SyncBN needs CUDA: 1 layers work as BatchNorm, each process with its own statistics" in caplog.text


def test_nothing_to_do(caplog):
    model = nn.Linear(1, 1)
    with caplog.at_level(logging.INFO):
        assert without_sync_bn(model) is model and distribute(model) is model
    assert not caplog.text
    alone = without_sync_bn(nn.SyncBatchNorm(2, affine=False))
    assert type(alone) is nn.BatchNorm2d and not list(alone.parameters())


def test_scores_are_those_of_rank_0s_statistics(monkeypatch):
    received = {"running_mean": 3.0, "running_var": 5.0, "num_batches_tracked": 7}
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    weights = [p.clone() for p in model.parameters()]
    names = {id(buffer): name.split(".")[-1] for name, buffer in model.named_buffers()}
    from_rank_0 = {0: lambda t: t.fill_(received[names[id(t)]])}
    monkeypatch.setattr(torch.distributed, "broadcast", lambda t, src: from_rank_0[src](t))
    share_buffers(model)  # one process: nothing to do
    assert model[1].running_mean.eq(0).all()
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    share_buffers(model)
    assert {name: getattr(model[1], name).unique().item() for name in received} == received
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters()))
