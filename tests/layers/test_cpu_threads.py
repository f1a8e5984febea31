"""Portions of work on threads of their own."""

import multiprocessing
import threading

import pytest
import torch

from fapn_d2.layers.cpu_threads import spread
from fapn_d2.layers.deform_conv.module import modulated_deform_conv2d

from .deform_conv.inputs import make_inputs


@pytest.mark.parametrize("threads", [1, 2, 5, 6], indirect=True)
@pytest.mark.parametrize("number", [0, 1, 2, 3, 20])
def test_every_portion_once_and_torchs_threads_are_shared_out(threads, number):
    seen, inside = torch.zeros(number), []

    def work(portion):
        seen[portion] += 1
        inside.append((threading.current_thread().name, torch.get_num_threads()))

    for _ in range(2):
        spread(work, range(number))
    assert (seen == 2).all() and torch.get_num_threads() == threads
    workers = min(threads, number)
    if workers < 2:  # here, with all of torch's threads
        assert set(inside) <= {(threading.current_thread().name, threads)}
    else:
        assert {n for _, n in inside} == {threads // workers}
        assert all(name.startswith("fapn_d2") for name, _ in inside)


@pytest.mark.parametrize("threads", [2], indirect=True)
@pytest.mark.usefixtures("threads")
def test_threads_that_start_later_have_torchs_number():
    spread(lambda portion: None, range(2))
    found = []
    other = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert found == [2]


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.usefixtures("threads")
def test_an_error_reaches_the_caller():
    with pytest.raises(IndexError):
        spread(lambda portion: torch.zeros(1)[portion], range(3))
    spread(lambda portion: None, range(3))


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.usefixtures("threads")
def test_modes_hold_in_the_threads(mode):
    x, out = torch.ones(4, requires_grad=True), None

    def work(portion):
        out[portion] = 2 * x[portion]

    with mode():
        out = torch.zeros(4)
        spread(work, range(4))
    assert out.tolist() == [2.0] * 4 and not out.requires_grad


def _in_a_child(queue, inputs):
    queue.put(modulated_deform_conv2d(*inputs).sum().item())


@pytest.mark.usefixtures("no_small", "threads")
@pytest.mark.parametrize("threads", [2], indirect=True)
def test_a_forked_process_has_threads_of_its_own():
    """As where a data loader's worker runs a network: the parent's threads are not there to wait for."""
    inputs = make_inputs()
    expected = modulated_deform_conv2d(*inputs).sum().item()
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_in_a_child, args=(queue, inputs))
    child.start()
    child.join(60)
    alive = child.is_alive()
    child.kill()
    assert not alive and queue.get() == pytest.approx(expected, rel=1e-12)
