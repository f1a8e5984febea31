"""Hooks of the training loop."""

import logging
import signal
import threading

from detectron2.engine import HookBase
from detectron2.utils import comm

from ..checkpoint.checkpointer import Checkpointer
from ..messages import EXIT_STOPPED
from .train_step import TrainStep

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopOnSignal(HookBase):
    """Save a checkpoint and stop when any rank receives SIGTERM or SIGUSR1.

    The current iteration is finished first. All ranks exit with code 75. This must be the last hook. In the last
    iteration the signals have no effect, because the run ends anyway.

    Args:
        checkpointer: the checkpointer that saves ``model_<iteration>.pth``.
        step: the loop body, in which the ranks agree to stop.
    """

    def __init__(self, checkpointer: Checkpointer, step: TrainStep):
        self._checkpointer = checkpointer
        self._step = step
        self._previous: dict = {}

    def before_train(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            logger.warning("Training does not run in the main thread: signals will not save a checkpoint.")
            return
        self._previous = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}

    def _on_signal(self, number: int, frame) -> None:
        self._step.stop_requested = True

    def after_step(self) -> None:
        if not self._step.stop_agreed or self.trainer.iter + 1 >= self.trainer.max_iter:
            return
        logger.warning("Asked to stop: saving after iteration %d; go on with --resume.", self.trainer.iter)
        self._checkpointer.save(f"model_{self.trainer.iter:07d}", iteration=self.trainer.iter)
        comm.synchronize()  # no rank exits before rank 0 has saved
        raise SystemExit(EXIT_STOPPED)

    def after_train(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
