"""The loop body: gradients, autocast, and the end at a loss that is not finite."""

import math

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from fapn_d2.engine.train_step import NonFiniteLossError, TrainStep


class Recorder(nn.Module):
    """Loss = weight * x; remembers the type that autocast computes in and a random number."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.line.weight)

    def forward(self, batch):
        x = torch.tensor([[record["x"]] for record in batch], dtype=torch.float32)
        y = self.line(x)
        self.seen, self.drawn = y.dtype, float(torch.rand(()))
        return {"loss_b": y.mean(), "loss_a": 2 * y.float().mean()}


def batches(*values):
    return [[{"x": v, "file_name": f"{v}.jpg"} for v in batch] for batch in values]


def run(step: TrainStep, iterations: int) -> EventStorage:
    with EventStorage() as storage:
        for step.iter in range(iterations):
            storage.iter = step.iter
            step.run_step()
    return storage


def test_values():
    model = Recorder()
    step = TrainStep(model, batches([1.0, 3.0], [2.0]), torch.optim.SGD(model.parameters(), lr=0.1))
    storage = run(step, 2)
    # d(3 y)/dw is 3 * 2 both times; losses are those before the step
    assert model.line.weight.item() == pytest.approx(1 - 0.6 - 0.6)
    history = {name: [v for v, _ in storage.history(name).values()] for name in ("loss_a", "loss_b", "total_loss")}
    assert history["loss_a"] == pytest.approx([4, 1.6]) and history["loss_b"] == pytest.approx([2, 0.8])
    assert history["total_loss"] == pytest.approx([6, 2.4])
    assert "data_time" in storage.histories() and "grad_scale" not in storage.histories()
    assert model.seen is torch.float32


def test_single_tensor_loss():
    model = nn.Linear(1, 1)
    model.forward = lambda batch: nn.Linear.forward(model, torch.ones(1, 1)).sum()
    storage = run(TrainStep(model, batches([1.0]), torch.optim.SGD(model.parameters(), lr=0.1)), 1)
    assert "total_loss" in storage.histories()


def test_bfloat16_on_the_cpu():
    model = Recorder()
    step = TrainStep(model, batches([1.0]), torch.optim.SGD(model.parameters(), lr=0.1), dtype=torch.bfloat16)
    run(step, 1)
    assert model.seen is torch.bfloat16 and model.line.weight.dtype is torch.float32
    assert not step.scaler.is_enabled() and model.line.weight.item() == pytest.approx(0.7)


def test_random_numbers_depend_on_seed_and_iteration():
    def drawn(seed, first):
        model, out = Recorder(), []
        step = TrainStep(model, batches([1.0], [1.0]), torch.optim.SGD(model.parameters(), lr=0.1), seed=seed)
        torch.rand(first + 1)
        with EventStorage():
            for step.iter in range(first, first + 2):
                step.run_step()
                out.append(model.drawn)
        return out

    assert drawn(1, 0)[1] == drawn(1, 1)[0]
    assert len({*drawn(1, 0), *drawn(2, 0)}) == 4


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_loss_that_is_not_finite(bad):
    model = Recorder()
    step = TrainStep(model, batches([1.0], [bad, 4.0]), torch.optim.SGD(model.parameters(), lr=0.25))
    with pytest.raises(NonFiniteLossError) as caught:
        run(step, 2)
    message = str(caught.value)
    assert "not finite at iteration 1, learning rate 0.25" in message
    assert f"rank 0: loss_a {bad:g}, loss_b {bad:g}; images: {bad}.jpg, 4.0.jpg" in message
    assert "SOLVER.BASE_LR" in message
    assert model.line.weight.item() == pytest.approx(1 - 0.25 * 3)  # no step with that gradient


def test_stopping_is_agreed_in_the_next_exchange():
    model = Recorder()
    step = TrainStep(model, batches([1.0], [1.0]), torch.optim.SGD(model.parameters(), lr=0.1))
    with EventStorage():
        step.iter = 0
        step.run_step()
        assert not step.stop_agreed
        step.stop_requested = True
        step.run_step()
    assert step.stop_agreed


def test_state(caplog):
    model = Recorder()
    step = TrainStep(model, batches([1.0]), torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), seed=4)
    run(step, 1)
    other = TrainStep(Recorder(), batches([1.0]), torch.optim.SGD(Recorder().parameters(), lr=0.5))
    other.load_state_dict(step.state_dict())
    assert (other.seed, other.iter, other.optimizer.param_groups[0]["lr"]) == (4, 0, 0.1)
    assert len(other.optimizer.state_dict()["state"]) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_on_cuda(dtype):
    model = nn.Linear(4, 4).cuda()
    seen = []
    model.forward = lambda batch: (
        seen.append(nn.Linear.forward(model, torch.ones(2, 4).cuda())) or {"l": seen[-1].sum()}
    )
    step = TrainStep(model, batches([1.0], [1.0]), torch.optim.SGD(model.parameters(), lr=0.1), dtype=dtype)
    storage = run(step, 2)
    assert seen[0].dtype is dtype and step.scaler.is_enabled() == (dtype is torch.float16)
    assert ("grad_scale" in storage.histories()) == (dtype is torch.float16)
