"""Hooks of the training loop."""

import contextlib
import logging
import math
from typing import Any

from detectron2.engine import HookBase
from detectron2.engine.hooks import EvalHook
from detectron2.utils import comm
from detectron2.utils.events import EventWriter

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


class TrainingDone(BaseException):
    """Training ends before MAX_ITER: the scores do not get better any more."""


class BestCheckpoint(HookBase):
    """Keep the checkpoint with the best score as ``model_best.pth``; end the training if it does not get better.

    This hook must come after the evaluation.

    Args:
        checkpointer: the checkpointer that saves.
        metric: the name of the score, as in metrics.json.
        mode: "max" or "min".
        period: the number of iterations between evaluations; 0: only at the end.
        patience: the number of evaluations in a row without a better score that end the training; 0: never.

    Raises:
        ValueError: ``mode`` is unknown; or an evaluation does not compute the score.
    """

    def __init__(self, checkpointer: Checkpointer, metric: str, *, mode: str = "max", period: int, patience: int = 0):
        if mode not in ("max", "min"):
            raise ValueError(f'TEST.BEST_MODE is "{mode}"; allowed are "max" and "min"')
        self._checkpointer = checkpointer
        self._metric, self._sign = metric, 1 if mode == "max" else -1
        self._period, self._patience = period, patience
        self.best, self.best_iteration, self.worse = math.nan, -1, 0

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._compare(self.trainer.iter)

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            self._compare(self.trainer.max_iter - 1)

    def _compare(self, iteration: int) -> None:
        latest = self.trainer.storage.latest()
        error = None
        if comm.is_main_process() and self._metric not in latest:
            known = ", ".join(name for name in latest if "/" in name) or "none"
            error = f'TEST.BEST_METRIC is "{self._metric}", which the evaluation does not give; it gives {known}'
        value, error = comm.all_gather((latest.get(self._metric, (math.nan,))[0], error))[0]
        if error:
            raise ValueError(error)
        if math.isfinite(value) and not self._sign * value <= self._sign * self.best:  # true for the first one
            self.best, self.best_iteration, self.worse = value, iteration, 0
            self._checkpointer.save("model_best", is_last=False, iteration=iteration)
            logger.info("%s is %.4f, the best so far: saved as model_best.pth", self._metric, value)
            return
        self.worse += 1
        logger.info("%s is %.4f; best: %.4f at iteration %d", self._metric, value, self.best, self.best_iteration)
        if 0 < self._patience <= self.worse and iteration + 1 < self.trainer.max_iter:
            logger.info("No better %s in %d evaluations: training ends early.", self._metric, self.worse)
            raise TrainingDone

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_iteration": self.best_iteration, "worse": self.worse}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.best_iteration, self.worse = state["best"], state["best_iteration"], state["worse"]


class PatientWriter(EventWriter):
    """A writer of metrics that warns where its file cannot be written, instead of ending the training.

    Args:
        writer: Detectron2's writer of metrics.json or of TensorBoard's file.
    """

    def __init__(self, writer: EventWriter):
        self._writer = writer
        self._last = ""

    def write(self) -> None:
        self._try(self._writer.write)

    def close(self) -> None:
        self._try(self._writer.close)

    def _try(self, action) -> None:
        try:
            action()
        except OSError as error:
            if str(error) != self._last:  # once, not at every write
                logger.warning("%s cannot write (%s); training goes on", type(self._writer).__name__, error)
            self._last = str(error)
