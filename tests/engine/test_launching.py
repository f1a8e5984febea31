"""One process or many: what is refused, how signals travel, and how errors end a program."""

import multiprocessing
import os
import signal
import time

import pytest
import torch

from fapn_d2.engine.launching import _passing_signals_to, launch
from fapn_d2.messages import user_errors_as_messages


def test_one_process_is_a_call():
    assert launch(lambda a, b: a + b, processes=1, use_cuda=False, args=(1, 2)) == 3


def test_what_does_not_fit(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"--num-gpus 4, but this machine has 2"):
        launch(print, processes=4, use_cuda=True)
    with pytest.raises(ValueError, match=r"several machines need --dist-url tcp://"):
        launch(print, processes=1, machines=2, use_cuda=False)
    for wrong in ({"processes": 0}, {"processes": 1, "machines": 2, "machine_rank": 2}):
        with pytest.raises(ValueError, match=r"--machine-rank \d do not fit"):
            launch(print, use_cuda=False, **wrong)


def _wait_for_signal(ready) -> None:
    signal.signal(signal.SIGUSR1, lambda *_: os._exit(75))
    ready.set()
    time.sleep(30)


def test_signals_go_to_the_workers():
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    worker = context.Process(target=_wait_for_signal, args=(ready,))
    worker.start()
    ready.wait()
    before = signal.getsignal(signal.SIGUSR1)
    with _passing_signals_to([worker]):
        os.kill(os.getpid(), signal.SIGUSR1)
        worker.join()
    assert worker.exitcode == 75 and signal.getsignal(signal.SIGUSR1) == before


def test_errors_of_the_user_are_one_message(capsys, monkeypatch):
    monkeypatch.delenv("FAPN_DEBUG", raising=False)
    for error in (ValueError("no such key"), FileNotFoundError("no such key")):
        with pytest.raises(SystemExit) as end, user_errors_as_messages():
            raise error
        assert end.value.code == 2
        assert capsys.readouterr().err.startswith("error: no such key\n")
    with pytest.raises(ValueError, match="seen"), user_errors_as_messages(debug=True):
        raise ValueError("seen")
    monkeypatch.setenv("FAPN_DEBUG", "1")
    with pytest.raises(ValueError, match="seen"), user_errors_as_messages():
        raise ValueError("seen")
    with pytest.raises(RuntimeError, match="ours"), user_errors_as_messages():
        raise RuntimeError("ours")
