"""Training and scoring the networks of a ledger's row, and storing the results.

A network is trained once for all rows that share it: its folder is named after the config and a hash of every key that
training reads. A row that tests the same weights in another way (another size, other measures) only scores them. A row
with a pretraining starts all its seeds from the weights of one pretraining, which is a separate run. The result of a
run is in ``record-<hash>.json`` beside the weights, with a hash of the whole config. Rows find their numbers by this
hash, so that runs that were shrunk or changed by hand never count for a row.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..config.hashing import config_hash, training_hash
from .ledger import CONFIGS, Network, Row
from .records import PRETRAINING, PROPOSALS, Record, read_record
from .shrinking import shrinking

TRAIN_TOOL = CONFIGS.parent / "tools" / "train_net.py"
PROPOSALS_TOOL = CONFIGS.parent / "tools" / "extract_proposals.py"


@dataclass(frozen=True)
class Job:
    """One network of a row, with one seed."""

    row: str
    network_name: str
    config: Path
    options: tuple[Any, ...]  #: KEY VALUE pairs of the row, of shrinking, and of the user
    changed: tuple[Any, ...]  #: the pairs that are not of the row
    seed: int
    folder: Path  #: OUTPUT_DIR of the training
    config_hash: str
    start: Path | None = None  #: weights of the row's pretraining; None: the config's MODEL.WEIGHTS
    proposer: "Job | None" = None  #: the training of the network whose proposals this one reads
    datasets: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())  #: with a proposer: DATASETS.TRAIN and DATASETS.TEST

    @property
    def weights(self) -> Path:
        """The checkpoint that the training writes at its end."""
        return self.folder / "model_final.pth"

    @property
    def record(self) -> Path:
        """The file of the record."""
        return self.folder / f"record-{self.config_hash}.json"

    def command(self, gpus: int) -> list[str]:
        """The command that trains and scores the network, or only scores it if its weights exist."""
        start = [sys.executable, str(TRAIN_TOOL), "--config-file", str(self.config), "--num-gpus", str(gpus)]
        place = ["SEED", str(self.seed), "OUTPUT_DIR", str(self.scores_folder), *self._proposal_files()]
        if self.weights.is_file():
            return [*start, "--eval-only", *as_arguments(self.options), *place, "MODEL.WEIGHTS", str(self.weights)]
        first = ["MODEL.WEIGHTS", str(self.start)] if self.start else []
        return [*start, "--resume", *as_arguments(self.options), *first, *place]

    def _proposal_files(self) -> list[str]:
        if self.proposer is None:
            return []
        train, test = (str(tuple(str(self.proposer.proposals_of(n)) for n in names)) for names in self.datasets)
        return ["DATASETS.PROPOSAL_FILES_TRAIN", train, "DATASETS.PROPOSAL_FILES_TEST", test]

    def proposals_of(self, dataset: str) -> Path:
        """The folder of the proposals of this job's network for a data set."""
        return self.folder / "proposals" / dataset

    def extractions(self, gpus: int) -> list[list[str]]:
        """The commands that write the proposals that this job reads, as far as they do not exist."""
        if self.proposer is None:
            return []
        proposer = self.proposer
        start = [sys.executable, str(PROPOSALS_TOOL), "--config-file", str(proposer.config), "--num-gpus", str(gpus)]
        start += ["--weights", str(proposer.weights)]
        return [
            [*start, "--dataset", name, "--output", str(proposer.proposals_of(name)), *as_arguments(proposer.options)]
            for name in dict.fromkeys([*self.datasets[0], *self.datasets[1]])
            if not (proposer.proposals_of(name) / "header.json").is_file()
        ]

    @property
    def scores_folder(self) -> Path:
        """The folder of ``results.json``: scoring again must not overwrite the files of the training."""
        return self.folder / f"scores-{self.config_hash}" if self.weights.is_file() else self.folder


def jobs_of(
    row: Row, *, seeds: int, output: Path, shrink: float = 1.0, processes: int = 1, options: Sequence[Any] = ()
) -> Iterator[Job]:
    """The jobs of a row in their order: its pretraining and the network that gives it proposals, both with seed 1, then
    each network with seeds 1 to ``seeds``.

    Args:
        row: a row with networks.
        seeds: number of seeds.
        output: folder for all runs.
        shrink: factor of :func:`shrinking`; 1 changes nothing.
        processes: number that must divide a shrunken batch.
        options: further KEY VALUE pairs for the networks. With MODEL.WEIGHTS among them nothing is pretrained.
            With DATASETS.PROPOSAL_FILES_TRAIN among them no network is trained for proposals; otherwise that network
            gets these pairs, too.

    Raises:
        ValueError: the row is pending, ``seeds`` or ``shrink`` is out of range, or the config is not valid.
        FileNotFoundError: a file named in ``_BASE_`` does not exist.
    """
    if row.pending:
        raise ValueError(f"row {row.id} is not built yet: {row.pending}")
    if seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {seeds}")

    def job(name: str, network: Network, given: Sequence[Any], start: Path | None = None, before: str = "") -> Job:
        smaller = shrinking(network.load(given), shrink, processes=processes) if shrink != 1 else []
        changed = (*smaller, *given)
        cfg = network.load(changed)
        folder = f"{network.config.stem}-{training_hash(cfg, pretraining=before)}"
        return Job(
            row=row.id,
            network_name=name,
            config=network.config,
            options=(*network.options(), *changed),
            changed=changed,
            seed=1,
            folder=output / folder / "seed1",
            config_hash=config_hash(cfg, pretraining=before),
            start=start,
        )

    start, before = None, ""
    if row.pretraining and "MODEL.WEIGHTS" not in options[::2]:
        pretraining = job(PRETRAINING, row.pretraining, ())
        start, before = pretraining.weights, training_hash(row.pretraining.load(pretraining.changed))
        yield pretraining
    proposer = None
    if row.proposals and "DATASETS.PROPOSAL_FILES_TRAIN" not in options[::2]:
        proposer = job(PROPOSALS, row.proposals, options)
        before = proposals_hash(row.proposals, proposer.changed)
        yield proposer
    for name, network in row.networks.items():
        first = job(name, network, options, start, before)
        if proposer:
            cfg = network.load(first.changed)
            first = replace(first, proposer=proposer, datasets=(tuple(cfg.DATASETS.TRAIN), tuple(cfg.DATASETS.TEST)))
        for seed in range(1, seeds + 1):
            yield replace(first, seed=seed, folder=first.folder.with_name(f"seed{seed}"))


def run_job(job: Job, *, gpus: int) -> Record:
    """Train and score as ``tools/train_net.py`` does, in a process of its own, and write the record.

    A job that has a record is not run again. A job that was interrupted continues from its last checkpoint.

    Args:
        job: a job from :func:`jobs_of`.
        gpus: number of processes, each with one GPU or all on the CPU.

    Raises:
        SystemExit: the run failed or was stopped, with its exit code.
    """
    if job.record.is_file():
        return read_record(job.record)
    for command in job.extractions(gpus):
        code = _run(command)
        if code:
            raise SystemExit(code)
    scores = job.scores_folder
    code = _run(job.command(gpus))
    if code:
        raise SystemExit(code)
    run = json.loads((scores / "run.json").read_text())
    record = Record(
        row=job.row,
        network=job.network_name,
        config=_config_name(job.config),
        changed=list(job.changed),
        seed=job.seed,
        config_hash=job.config_hash,
        iterations=Network(job.config).load(job.options).SOLVER.MAX_ITER,
        device=run["device"],
        processes=run["processes"],
        commit=run["commit"],
        results=json.loads((scores / "results.json").read_text()),
    )
    record.write(job.record)
    return record


def proposals_hash(network: Network, opts: Sequence[Any] = ()) -> str:
    """The ``pretraining`` of :func:`config_hash` for a network that reads the proposals of another one.

    The sizes of test images count: proposals depend on them, although training does not.
    """
    return f"proposals of {config_hash(network.load(opts), without=('TEST', 'DATASETS.TEST'))}"


def as_arguments(options: Sequence[Any]) -> list[str]:
    """KEY VALUE pairs as arguments of a command line."""
    return [json.dumps(part) if isinstance(part, list) else str(part) for part in options]


def _run(command: list[str]) -> int:
    """Run a process and return its exit code. SIGTERM and SIGUSR1 are passed on to it, so that it saves its state."""
    process = subprocess.Popen(command)
    numbers = (signal.SIGTERM, signal.SIGUSR1)
    previous = {number: signal.signal(number, lambda n, frame: process.send_signal(n)) for number in numbers}
    try:
        return process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _config_name(path: Path) -> str:
    return str(path.relative_to(CONFIGS)) if path.is_relative_to(CONFIGS) else path.name
