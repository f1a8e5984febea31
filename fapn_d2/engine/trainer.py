"""Training and evaluation of any registered model from a config."""

import logging
import os
import weakref
from collections.abc import Iterable

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase
from detectron2.engine.hooks import EvalHook, PeriodicWriter
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from torch import nn

from ..checkpoint.checkpointer import Checkpointer
from ..config.values import check_values, warn_of_warmup
from ..data import build_test_loader, build_train_loader, check_datasets
from ..evaluation import build_evaluator
from ..files import write_json
from ..inference.box_augmentation import augmented, check_augmentation
from ..inference.semantic import build_inference, check_inference
from ..messages import USER_ERRORS, message_of
from ..meta_arch.acceleration import accelerate
from ..meta_arch.build import build_model
from .data_stream import stream_of
from .hooks import BestCheckpoint, Evaluation, PatientWriter, StopOnSignal, TrainingDone
from .parallel import distribute, share_buffers, waiting_at_most
from .precision import amp_dtype
from .seeding import seed_generators, seeded
from .signals import Stopped, catching_signals, current_signals, handles_signals
from .solver import build_lr_scheduler, build_optimizer
from .train_step import TrainStep

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """Detectron2's ``DefaultTrainer`` with this project's data, evaluation, checkpoints and loop body.

    Works on CUDA and CPU, in one process or many. The data sets are checked before the model is built.

    Args:
        cfg: the config, from ``load_config``. SEED determines initial weights, the order of images and augmentation. If
            it is negative, a seed is drawn and kept in checkpoints.
        allow_partial: whether to start although weights are missing or do not fit.

    Raises:
        ValueError, FileNotFoundError: the config, the data sets or the weights are not usable.
    """

    def __init__(self, cfg: CfgNode, *, allow_partial: bool = False):
        TrainerBase.__init__(self)  # DefaultTrainer's constructor works only on CUDA
        check_values(cfg)
        warn_of_warmup(cfg)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        images, processes = cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size()
        if images < 1 or images % processes:
            raise ValueError(f"SOLVER.IMS_PER_BATCH is {images}, which is not a multiple of the {processes} processes")
        dtype = amp_dtype(cfg)
        check_inference(cfg)
        check_augmentation(cfg)
        _check_once(cfg, [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
        seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()

        seed_generators(seed)
        model = accelerate(self.build_model(cfg), cfg)
        optimizer = self.build_optimizer(cfg, model)
        with seeded(seed):  # the same order of images for every network
            loader = self.build_train_loader(cfg)
        stream = stream_of(loader, seed=seed)
        model = distribute(model)
        self._trainer = TrainStep(model, stream, optimizer, dtype=dtype, seed=seed)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = Checkpointer(
            model, cfg.OUTPUT_DIR, cfg=cfg, allow_partial=allow_partial, trainer=weakref.proxy(self)
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue from the last good checkpoint in OUTPUT_DIR, or start from MODEL.WEIGHTS.

        Args:
            resume: whether to look for a checkpoint.
        """
        if resume and self.checkpointer.resume():
            self.start_iter = self.iter + 1
            return
        if not resume and self.checkpointer.has_checkpoint():
            logger.warning("%s holds an earlier run, which this one overwrites (no --resume).", self.cfg.OUTPUT_DIR)
        self.checkpointer.initialize(self.cfg.MODEL.WEIGHTS, skip=self.cfg.MODEL.WEIGHTS_SKIP)

    def train(self) -> dict | None:
        """Train until MAX_ITER, and evaluate at the end.

        Raises:
            SystemExit: with code 75, after a signal; the state is saved (signals.py).
        """
        detectron2_logger = logging.getLogger(TrainerBase.__module__)
        detectron2_logger.addFilter(_without_traceback)
        try:
            with catching_signals() as stop:
                if not handles_signals():
                    logger.warning("Training does not run in the main thread: signals will not save a checkpoint.")
                stop.folder = self.cfg.OUTPUT_DIR
                stop.remove_mark()
                limits = self.cfg.DISTRIBUTED
                with (
                    waiting_at_most(limits.TIMEOUT, otherwise=limits.TIMEOUT_EVAL),
                    stop.training(self._stop_hook.request, self._stop_hook.save),
                ):
                    return super().train()
        except TrainingDone:
            self.checkpointer.save("model_final", iteration=self.iter)
            return self._last_eval_results
        except Stopped:
            if self.iter >= self.max_iter:  # the last evaluation comes before the after_train of the writers
                with self.storage:
                    for hook in self._hooks:
                        if isinstance(hook, PeriodicWriter):
                            hook.after_train()
            raise
        finally:
            detectron2_logger.removeFilter(_without_traceback)
            self._trainer.close()

    def build_hooks(self) -> list[HookBase]:
        hooks = super().build_hooks()
        evaluation = Evaluation(self.cfg.TEST.EVAL_PERIOD, self._test_now)
        hooks = [evaluation if isinstance(hook, EvalHook) else hook for hook in hooks]
        if self.cfg.TEST.AUG.ENABLED:  # after the last iteration only, as in Detectron2's tools/train_net.py
            hooks.append(Evaluation(0, lambda: self.test_augmented(self.cfg, self.model)))
        if self.cfg.TEST.BEST_METRIC:
            options = {"mode": self.cfg.TEST.BEST_MODE, "period": self.cfg.TEST.EVAL_PERIOD}
            options["patience"] = self.cfg.SOLVER.EARLY_STOP
            hooks.append(BestCheckpoint(self.checkpointer, self.cfg.TEST.BEST_METRIC, **options))
        elif self.cfg.SOLVER.EARLY_STOP > 0:
            raise ValueError("SOLVER.EARLY_STOP needs the name of a score in TEST.BEST_METRIC")
        self._stop_hook = StopOnSignal(self.checkpointer, self._trainer)
        return [*hooks, self._stop_hook]

    def build_writers(self) -> list[EventWriter]:
        screen, *files = super().build_writers()
        return [screen, *map(PatientWriter, files)]

    def _test_now(self) -> dict:
        self._last_eval_results = self.test(self.cfg, self.model)
        return self._last_eval_results

    def state_dict(self) -> dict:
        state = TrainerBase.state_dict(self)
        state["_trainer"] = self._trainer.state_dict()  # Detectron2 v0.6 leaves out the optimizer
        if hasattr(self.data_loader, "state_dict"):
            state["data_stream"] = self.data_loader.state_dict()
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        TrainerBase.load_state_dict(self, state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])
        if "data_stream" in state_dict and hasattr(self.data_loader, "load_state_dict"):
            self.data_loader.load_state_dict(state_dict["data_stream"])

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        return build_model(cfg)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable:
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable:
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        return build_evaluator(cfg, dataset_name, os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name))

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: list[DatasetEvaluator] | None = None) -> dict:
        """Score on DATASETS.TEST, with the inference of TEST.SEM_SEG.

        The main process also writes the numbers to ``OUTPUT_DIR/results.json``.

        Returns:
            {task: {metric: value}}, or {data set: {task: ...}} for several; empty on other ranks.
        """
        share_buffers(model)
        results = super().test(cfg, build_inference(cfg, model), evaluators)
        _write_results(cfg, results)
        return results

    @classmethod
    def test_augmented(cls, cfg: CfgNode, model: nn.Module) -> dict:
        """Score boxes and masks with the augmentation of TEST.AUG. The main process writes ``results-augmented.json``.

        Returns:
            The results as from :meth:`test`, with "_TTA" after each name of a task or data set, as in Detectron2.
        """
        share_buffers(model)
        folder = os.path.join(cfg.OUTPUT_DIR, "inference_TTA")
        evaluators = [build_evaluator(cfg, name, os.path.join(folder, name)) for name in cfg.DATASETS.TEST]
        results = super().test(cfg, augmented(cfg, model), evaluators)
        results = {f"{name}_TTA": scores for name, scores in results.items()}
        _write_results(cfg, results, name="results-augmented.json")
        return results


def evaluate(cfg: CfgNode, *, resume: bool = False, allow_partial: bool = False) -> dict:
    """Score MODEL.WEIGHTS, or with ``resume`` the last checkpoint in OUTPUT_DIR, on DATASETS.TEST.

    Args:
        cfg: the config, from ``load_config``.
        resume: whether to use the last checkpoint.
        allow_partial: whether to score a network although weights are missing or do not fit.

    Returns:
        The results as from :meth:`Trainer.test`, with those of :meth:`Trainer.test_augmented` if TEST.AUG is enabled.

    Raises:
        ValueError, FileNotFoundError: see :meth:`Checkpointer.load`; or the data sets are not usable.
        SystemExit: with code 75, after a signal (signals.py).
    """
    check_values(cfg)
    _check_once(cfg, list(cfg.DATASETS.TEST))
    model = accelerate(Trainer.build_model(cfg), cfg)
    checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, cfg=cfg, allow_partial=allow_partial)
    if not (resume and checkpointer.resume()):
        checkpointer.load(cfg.MODEL.WEIGHTS)
    with current_signals().evaluation():
        results = Trainer.test(cfg, model)
        return results | Trainer.test_augmented(cfg, model) if cfg.TEST.AUG.ENABLED else results


def _without_traceback(record: logging.LogRecord) -> bool:
    """A filter of log records that replaces the traceback of a user's error by its message."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, (*USER_ERRORS, OSError)):
        record.msg, record.args, record.exc_info = "Training ended: %s", (message_of(error),), None
    return True


def _write_results(cfg: CfgNode, results: dict, *, name: str = "results.json") -> None:
    if comm.is_main_process() and cfg.OUTPUT_DIR:
        os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
        write_json(os.path.join(cfg.OUTPUT_DIR, name), results)


def _check_once(cfg: CfgNode, names: list[str]) -> None:
    """Check data sets, and generate those that are generated, in one process. All processes raise its error."""
    error = None
    if comm.is_main_process():
        try:
            check_datasets(cfg, names)
        except USER_ERRORS as found:
            error = found
    error = comm.all_gather(error)[0]
    if error is not None:
        raise error
