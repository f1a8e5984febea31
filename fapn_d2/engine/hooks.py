"""Hooks of the training loop."""

import contextlib
import logging

from detectron2.engine import HookBase
from detectron2.engine.hooks import EvalHook
from detectron2.utils import comm

from ..checkpoint.checkpointer import Checkpointer
from ..messages import EXIT_STOPPED
from .parallel import waiting_at_most
from .signals import current_signals
from .train_step import TrainStep

logger = logging.getLogger(__name__)


class StopOnSignal(HookBase):
    """Save a checkpoint and stop when any rank is asked to stop (signals.py).

    The current iteration is finished first. All ranks exit with code 75. This must be the last hook. In the last
    iteration a request has no effect, because the run ends anyway.

    Args:
        checkpointer: the checkpointer that saves ``model_<iteration>.pth``.
        step: the loop body, in which the ranks agree to stop.
    """

    def __init__(self, checkpointer: Checkpointer, step: TrainStep):
        self._checkpointer = checkpointer
        self._step = step

    def request(self) -> None:
        """Ask all ranks to stop after this iteration."""
        self._step.stop_requested = True

    def save(self) -> None:
        """Save the state after the current iteration, on rank 0, and say so in OUTPUT_DIR/stopped.txt."""
        done = min(self.trainer.iter, self.trainer.max_iter - 1)
        if self.trainer.iter >= self.trainer.max_iter:
            logger.warning("Asked to stop after the last iteration, which is saved; evaluate with --resume.")
        else:
            logger.warning("Asked to stop: saving after iteration %d; go on with --resume.", done)
            self._checkpointer.save(f"model_{done:07d}", iteration=done)
        current_signals().mark(f"stopped, saved at iteration {done}; continue with --resume")

    def after_step(self) -> None:
        if not self._step.stop_agreed or self.trainer.iter + 1 >= self.trainer.max_iter:
            return
        self.save()
        comm.synchronize()  # no rank exits before rank 0 has saved
        raise SystemExit(EXIT_STOPPED)


class Evaluation(EvalHook):
    """Detectron2's evaluation during and after training, which a signal breaks off."""

    def _do_eval(self) -> None:
        stoppable = self.trainer.cfg.DATASETS.TEST
        limits = self.trainer.cfg.DISTRIBUTED
        with (
            waiting_at_most(limits.TIMEOUT_EVAL, otherwise=limits.TIMEOUT),
            current_signals().evaluation() if stoppable else contextlib.nullcontext(),
        ):
            super()._do_eval()
