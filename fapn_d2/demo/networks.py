"""Training, scoring and timing two panoptic networks that differ only in the neck: what ``make demo`` runs."""

import contextlib
import json
import logging
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.engine import HookBase
from detectron2.utils.env import seed_all_rng
from tabulate import tabulate
from torch import nn
from tqdm import tqdm

from ..config.loading import CONFIGS, load_config
from ..engine.provenance import describe_run
from ..engine.trainer import Trainer
from ..inference.trained import use_available_device
from ..reproduction.runs import read_losses

#: Name in tables and pictures -> config. The others are compared with the first.
NETWORKS = {
    "FPN": "quickstart/panoptic_FPN_shapes.yaml",
    "FaPN": "quickstart/panoptic_FaPN_shapes.yaml",
}
#: Column -> (task, metric) in the evaluators' results.
SCORES = {
    "box AP": ("bbox", "AP"),
    "mask AP": ("segm", "AP"),
    "PQ": ("panoptic_seg", "PQ"),
    "mIoU": ("sem_seg", "mIoU"),
}
HEADER = ("network", *SCORES, "parameters", "ms per image")
#: For each column of HEADER: which number is better.
BETTER = (None, "max", "max", "max", "max", None, "min")


def score_of(results: dict, column: str) -> float:
    """The score for a column of SCORES; nan if there is none, as mask AP of a network that finds no objects."""
    task, metric = SCORES[column]
    value = results.get(task, {}).get(metric)
    return float("nan") if value is None else value  # JSON has no NaN


@dataclass
class DemoNetwork:
    """One trained and scored network."""

    name: str
    cfg: CfgNode
    model: nn.Module  #: in eval mode
    results: dict  #: {task: {metric: value}}
    losses: dict[str, list[tuple[int, float]]]  #: name -> (iteration, loss), smoothed as Detectron2 logs it
    seconds: float  #: training and scoring, wall clock
    record: dict  #: of ``describe_run``
    milliseconds: float = float("nan")  #: median time for one image

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    def row(self) -> list[str]:
        """Texts for the columns of HEADER."""
        scores = [f"{score_of(self.results, column):.1f}" for column in SCORES]
        return [self.name, *scores, f"{self.parameters / 1e6:.2f} M", f"{self.milliseconds:.0f}"]


def run_demo(folder: str | Path, *, shrink: float = 1.0, opts: Sequence[str] = ()) -> list[DemoNetwork]:
    """Train, score and time both networks of NETWORKS with the same seed, data and schedule.

    Args:
        folder: each network gets a sub-folder with checkpoint, config, ``metrics.json`` and ``results.json``;
            Detectron2's messages are in ``log.txt``.
        shrink: factor for the number of iterations, in (0, 1].
        opts: KEY VALUE pairs for both configs.

    Returns:
        The networks in the order of NETWORKS.

    Raises:
        ValueError: ``shrink`` is out of range, or an option is unknown or has the wrong type.
    """
    if not 0 < shrink <= 1:
        raise ValueError(f"--shrink takes a factor in (0, 1], got {shrink:g}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    configs = {name: demo_config(name, folder / name, shrink=shrink, opts=opts) for name in NETWORKS}
    with _talk_to_file(folder / "log.txt"):
        for dataset in {d for cfg in configs.values() for d in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)}:
            DatasetCatalog.get(dataset)  # generated on first use, before the first network is timed
        networks = [train_network(name, cfg) for name, cfg in configs.items()]
        time_networks(networks)
    return networks


def demo_config(name: str, folder: Path, *, shrink: float, opts: Sequence[str]) -> CfgNode:
    """The frozen config of one network, on the GPU if there is one, with its iterations shrunk."""
    cfg = load_config(str(CONFIGS / NETWORKS[name]), ["OUTPUT_DIR", str(folder), *opts])
    use_available_device(cfg)
    cfg.SOLVER.MAX_ITER = max(2, round(cfg.SOLVER.MAX_ITER * shrink))
    cfg.SOLVER.WARMUP_ITERS = min(cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.MAX_ITER // 2)
    cfg.freeze()
    return cfg


def train_network(name: str, cfg: CfgNode) -> DemoNetwork:
    """Train and score with the ``Trainer`` of tools/train_net.py; a bar shows the time left and the loss."""
    start = time.perf_counter()
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(cfg.dump())
    metrics = folder / "metrics.json"
    metrics.unlink(missing_ok=True)  # Detectron2 appends, and the losses of an earlier demo do not belong here
    seed_all_rng(cfg.SEED)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    # First among the hooks, so that the evaluation at the end is not counted as part of an iteration.
    trainer.register_hooks([ProgressBar(name)])
    trainer.train()
    return DemoNetwork(
        name=name,
        cfg=cfg,
        model=trainer.model.eval(),
        results=json.loads((folder / "results.json").read_text()),
        losses=read_losses(metrics),
        seconds=time.perf_counter() - start,
        record=describe_run(cfg, NETWORKS[name]),
    )


def time_networks(networks: Sequence[DemoNetwork], *, images: int = 30) -> None:
    """Set ``milliseconds``: the median over images, one at a time. The networks take turns, so that other work on the
    machine slows both."""
    loaders = [Trainer.build_test_loader(t.cfg, t.cfg.DATASETS.TEST[0]) for t in networks]
    times: list[list[float]] = [[] for _ in networks]
    for i, batches in zip(range(images), zip(*loaders)):
        for network, batch, seconds in zip(networks, batches, times):
            if i == 0:
                _timed(network, batch)  # warms up caches
            seconds.append(_timed(network, batch))
    for network, seconds in zip(networks, times):
        network.milliseconds = 1000 * statistics.median(seconds)


def _timed(network: DemoNetwork, batch: list[dict]) -> float:
    start = time.perf_counter()
    with torch.no_grad():
        network.model(batch)
    if network.cfg.MODEL.DEVICE != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


class ProgressBar(HookBase):
    """One line on the terminal: iterations, time left, loss."""

    def __init__(self, title: str):
        self.title = title

    def before_train(self) -> None:
        # Without a terminal each refresh is a line in a log.
        interval = 0.5 if sys.stderr.isatty() else 20
        self._bar = tqdm(
            total=self.trainer.max_iter - self.trainer.start_iter,
            desc=f"training {self.title:4}",
            unit="it",
            mininterval=interval,
            maxinterval=interval,
        )

    def after_step(self) -> None:
        self._bar.set_postfix_str(f"loss {self.trainer.storage.history('total_loss').avg(20):.2f}", refresh=False)
        self._bar.update()
        if self.trainer.iter + 1 == self.trainer.max_iter:
            self._bar.close()

    def after_train(self) -> None:
        self._bar.close()


def text_table(networks: Sequence[DemoNetwork]) -> str:
    """The table of scores for a terminal."""
    rows = [network.row() for network in networks]
    align = ("left", *["right"] * (len(HEADER) - 1))
    header, *lines = tabulate(rows, HEADER, tablefmt="plain", disable_numparse=True, colalign=align).splitlines()
    return "\n".join([header, "-" * len(header), *lines])


@contextlib.contextmanager
def _talk_to_file(path: Path) -> Iterator[None]:
    """Send logs, warnings and the evaluators' output to a file; stderr, with bars and errors, stays as it is."""
    names = ("detectron2", "fapn_d2", "fvcore", "py.warnings", "torch.fx")
    with open(path, "w") as file:
        handler = logging.StreamHandler(file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
        loggers = [logging.getLogger(name) for name in names]
        before = [(logger.level, logger.propagate) for logger in loggers]
        for logger in loggers:
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
            logger.propagate = False
        logging.captureWarnings(True)
        try:
            with contextlib.redirect_stdout(file):
                yield
        finally:
            logging.captureWarnings(False)
            for logger, (level, propagate) in zip(loggers, before):
                logger.removeHandler(handler)
                logger.setLevel(level)
                logger.propagate = propagate


def threads() -> int:
    """Number of CPU threads that torch computes with."""
    return min(torch.get_num_threads(), os.cpu_count() or 1)
