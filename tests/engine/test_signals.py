"""Signals at any time of a run: real signals to real processes, forked because a start of Python takes seconds."""

import ctypes
import multiprocessing
import os
import signal
import time

import pytest
import torch

from fapn_d2.engine import Trainer, evaluate
from fapn_d2.engine.signals import MARKER, SIGNALS, catching_signals
from fapn_d2.files import write_atomically

from ..toys.training import ToySegmentor, toy_config

SOON = 20  # seconds; an evaluation must end after ten


def wait_for(path) -> None:
    deadline = time.time() + 60
    while not path.exists():
        assert time.time() < deadline, f"no {path}"
        time.sleep(0.02)


def child_code(function, at, number, *, wait: float = 0.0) -> tuple[int, float]:
    """(exit code, seconds) of a child that calls ``function`` and is sent a signal once ``at`` exists."""
    child = multiprocessing.get_context("fork").Process(target=function)
    child.start()
    wait_for(at)
    time.sleep(wait)
    start = time.time()
    for one in number if isinstance(number, tuple) else (number,):
        os.kill(child.pid, one)
        time.sleep(0.5 if isinstance(number, tuple) else 0)
    child.join(SOON)
    if child.exitcode is None:
        child.kill()
    return child.exitcode, time.time() - start


def slow_evaluation(monkeypatch, here) -> None:
    """The toy needs 30 s for an image in evaluations."""
    forward = ToySegmentor.forward

    def slowly(model, batch):
        if not model.training:
            here.touch()
            time.sleep(30)
        return forward(model, batch)

    monkeypatch.setattr(ToySegmentor, "forward", slowly)


def test_before_training_nothing_is_saved(tmp_path):
    def run():
        with catching_signals() as stop:
            stop.folder = str(tmp_path)
            (tmp_path / "ready").touch()
            time.sleep(30)

    for number in SIGNALS:
        for name in (MARKER, "ready"):
            (tmp_path / name).unlink(missing_ok=True)
        code, seconds = child_code(run, tmp_path / "ready", number)
        assert (code, seconds < 5) == (75, True)
        expected = f"stopped by {number.name} before the first iteration, nothing was to be saved; start again\n"
        assert (tmp_path / MARKER).read_text() == expected


@pytest.mark.parametrize("number", SIGNALS)
def test_in_an_evaluation_the_training_is_saved(camvid, tmp_path, monkeypatch, number):
    out, here = tmp_path / "out", tmp_path / "here"
    slow_evaluation(monkeypatch, here)
    cfg = toy_config(out, "TEST.EVAL_PERIOD", "3")

    def run():
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()

    code, seconds = child_code(run, here, number)
    assert (code, seconds < 10) == (75, True)
    assert (out / MARKER).read_text() == "stopped, saved at iteration 2; continue with --resume\n"
    assert (out / "last_checkpoint").read_text() == "model_0000002.pth"
    if number == signal.SIGTERM:
        monkeypatch.undo()
        monkeypatch.setenv("DETECTRON2_DATASETS", str(camvid))
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=True)
        trainer.train()
        assert trainer.start_iter == 3 and not (out / MARKER).exists()


def test_in_the_last_evaluation_and_in_evaluation_alone(camvid, tmp_path, monkeypatch):
    out, here = tmp_path / "out", tmp_path / "here"
    slow_evaluation(monkeypatch, here)

    def run():
        trainer = Trainer(toy_config(out))
        trainer.resume_or_load(resume=False)
        trainer.train()

    assert child_code(run, here, signal.SIGTERM)[0] == 75
    assert (out / MARKER).read_text() == "stopped, saved at iteration 5; continue with --resume\n"
    assert (out / "last_checkpoint").read_text() == "model_final.pth"

    def score():
        with catching_signals():
            (tmp_path / "again").touch()
            time.sleep(0.1)
            evaluate(toy_config(tmp_path / "scored", "MODEL.WEIGHTS", str(out / "model_final.pth")))

    here.unlink()
    assert child_code(score, here, signal.SIGTERM)[0] == 75
    assert not (tmp_path / "scored" / MARKER).exists()


def test_a_blocked_main_thread_does_not_hold_up_the_end(tmp_path):
    """As one rank waits for another: no Python code runs in the main thread."""

    def run():
        with (
            catching_signals() as stop,
            stop.training(lambda: None, lambda: (tmp_path / "saved").touch()),
            stop.evaluation(),
        ):
            (tmp_path / "ready").touch()
            blocked = ctypes.CDLL(None).sleep  # a signal ends it early
            signal.signal(signal.SIGTERM, lambda *_: None)  # which is not to be seen by the main thread
            while True:
                blocked(60)

    code, seconds = child_code(run, tmp_path / "ready", signal.SIGTERM)
    assert (code, seconds < 10) == (75, True) and (tmp_path / "saved").exists()


def test_while_a_checkpoint_is_written(camvid, tmp_path, monkeypatch):
    out, here = tmp_path / "out", tmp_path / "here"

    def slowly(path, write, **kwargs):
        if str(path).endswith("model_0000002.pth"):
            here.touch()
            time.sleep(1)
        write_atomically(path, write, **kwargs)

    monkeypatch.setattr("fapn_d2.checkpoint.checkpointer.write_atomically", slowly)

    def run():
        trainer = Trainer(toy_config(out, "SOLVER.CHECKPOINT_PERIOD", "3", "SOLVER.MAX_ITER", "100"))
        trainer.resume_or_load(resume=False)
        trainer.train()

    assert child_code(run, here, signal.SIGTERM)[0] == 75
    assert (out / "last_checkpoint").read_text() == "model_0000003.pth"  # the iteration after it agrees to stop
    assert torch.load(out / "model_0000002.pth")["iteration"] == 2


def test_the_second_ctrl_c_leaves_at_once(camvid, tmp_path, monkeypatch):
    here = tmp_path / "here"
    forward = ToySegmentor.forward

    def slowly(model, batch):
        here.touch()
        time.sleep(30)
        return forward(model, batch)

    monkeypatch.setattr(ToySegmentor, "forward", slowly)

    def run():
        trainer = Trainer(toy_config(tmp_path / "out"))
        trainer.resume_or_load(resume=False)
        trainer.train()

    code, seconds = child_code(run, here, (signal.SIGINT, signal.SIGINT))
    assert (code, seconds < 5) == (130, True)


def test_ignored_signals_stay_ignored():
    """nohup ignores SIGHUP; a shell ignores SIGINT for what it starts in the background."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with catching_signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
