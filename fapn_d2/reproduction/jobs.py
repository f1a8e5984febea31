"""Training and scoring the networks of a ledger's row, and storing the results.

A network is trained once for all rows that share it: its folder is named after the config and a hash of every key that
training reads. A row that tests the same weights in another way (another size, other measures) only scores them. A row
with a pretraining starts all its seeds from the weights of one pretraining, which is a separate run. The result of a
run is in ``record-<hash>.json`` beside the weights, with a hash of the whole config. Rows find their numbers by this
hash, so that runs that were shrunk or changed by hand never count for a row.

The 4-step alternating training of Faster R-CNN (Ren et al., NIPS 2015, Section 3.2) is five jobs: 1. the region
proposal network; 2. Fast R-CNN on its proposals; 3. the region proposal network again, with the backbone of step 2,
which is frozen, and a new head; 4. Fast R-CNN again on the proposals of step 3, with the backbone, which is frozen, and
the head of step 2; 5. the detector that has the heads of steps 3 and 4 is put together and scored.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from ..checkpoint.join import join_checkpoints
from ..config.hashing import config_hash, training_hash
from .ledger import CONFIGS, Alternating, Network, Row
from .records import MERGED, PRETRAINING, PROPOSALS, STEPS, Record, read_record
from .shrinking import shrinking

TRAIN_TOOL = CONFIGS.parent / "tools" / "train_net.py"
PAIR_TOOL = CONFIGS.parent / "tools" / "score_two_networks.py"
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
    pair: "tuple[Job, Job] | None" = None  #: the trainings whose networks are scored together; nothing is trained
    datasets: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())  #: with a proposer: DATASETS.TRAIN and DATASETS.TEST
    joined: "tuple[Job, Job] | None" = None  #: trainings that give this detector its heads; it is not trained

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
        if self.pair:
            instances, semantic = (str(job.weights) for job in self.pair)
            start = [sys.executable, str(PAIR_TOOL), "--instances", instances, "--semantic", semantic]
            return [*start, "--num-gpus", str(gpus), "SEED", str(self.seed), "OUTPUT_DIR", str(self.folder)]
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
    each network with seeds 1 to ``seeds``. Of an alternating training, step 1 has seed 1, and the other steps follow
    for each seed. The scores of two networks together are last.

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

    if row.alternating:
        yield from _alternating(row, job, seeds, options)
        return
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
    trained: dict[str, Job] = {}
    for name, network in row.networks.items():
        first = job(name, network, options, start, before)
        if proposer:
            first = _reading(first, network, proposer)
        trained[name] = first
        yield from (_with_seed(first, seed) for seed in range(1, seeds + 1))
    if row.merged:
        instances, semantic = trained["instances"], trained["semantic"]
        merged = merged_hash(*(row.networks[j.network_name].load(j.changed) for j in (instances, semantic)))
        folder = output / f"{instances.config.stem}-and-{semantic.config.stem}-{merged}"
        for seed in range(1, seeds + 1):
            pair = (_with_seed(instances, seed), _with_seed(semantic, seed))
            place = {"folder": folder / f"seed{seed}", "config_hash": merged}
            yield replace(pair[0], network_name=MERGED, pair=pair, **place)


#: Jobs with seed 1 that all seeds of a row use.
SHARED = (PRETRAINING, PROPOSALS, STEPS[0])


def of_one_seed(jobs: Iterable[Job], seed: int) -> Iterator[Job]:
    """The jobs of one seed, with those that all seeds share."""
    return (job for job in jobs if job.seed == seed or job.network_name in SHARED)


def _with_seed(job: Job, seed: int) -> Job:
    return replace(job, seed=seed, folder=job.folder.with_name(f"seed{seed}"))


def _reading(job: Job, network: Network, proposer: Job) -> Job:
    """A job that reads the proposals of another one."""
    data = network.load(job.changed).DATASETS
    return replace(job, proposer=proposer, datasets=(tuple(data.TRAIN), tuple(data.TEST)))


def _alternating(row: Row, job: Callable[..., Job], seeds: int, options: Sequence[Any]) -> Iterator[Job]:
    """The jobs of a 4-step alternating training; ``job`` is that of :func:`jobs_of`."""
    steps, frozen = row.alternating, row.alternating.frozen()
    first = job(STEPS[0], steps.rpn, options)
    second = job(STEPS[1], steps.detector, options, None, proposals_hash(steps.rpn, first.changed))
    # The hashes of steps 3 and 4 say what step 2 was, and so what step 1 was.
    before = alternating_hash(steps, (first.changed, second.changed))
    third = job(STEPS[2], frozen.rpn, options, None, before)
    fourth = job(STEPS[3], frozen.detector, options, None, before)
    whole = job("", row.network, options, None, before)
    yield first
    for seed in range(1, seeds + 1):
        two = _reading(_with_seed(second, seed), steps.detector, first)
        three = replace(_with_seed(third, seed), start=two.weights)
        four = replace(_reading(_with_seed(fourth, seed), frozen.detector, three), start=two.weights)
        yield from (two, three, four, replace(_with_seed(whole, seed), joined=(three, four)))


def merged_hash(instances: CfgNode, semantic: CfgNode) -> str:
    """The hash of the scores of two networks together."""
    return config_hash(instances, pretraining=f"merged with {config_hash(semantic)}")


def run_job(job: Job, *, gpus: int) -> Record:
    """Train and score as ``tools/train_net.py`` does, in a process of its own, and write the record.

    A job that has a record is not run again. A job that was interrupted continues from its last checkpoint. A detector
    that gets its heads from other trainings is put together and scored.

    Args:
        job: a job from :func:`jobs_of`.
        gpus: number of processes, each with one GPU or all on the CPU.

    Raises:
        SystemExit: the run failed or was stopped, with its exit code.
    """
    if job.record.is_file():
        # Another row, in which the network has another part, may have started the run.
        return replace(read_record(job.record), network=job.network_name)
    for command in job.extractions(gpus):
        code = _run(command)
        if code:
            raise SystemExit(code)
    if job.joined and not job.weights.is_file():
        job.folder.mkdir(parents=True, exist_ok=True)
        join_checkpoints(*(trained.weights for trained in job.joined), job.weights)
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
        results=_results_in(scores),
    )
    record.write(job.record)
    return record


def _results_in(folder: Path) -> dict:
    """The scores of a run; those with the augmentation of TEST.AUG have "_TTA" after the names of their tasks."""
    augmented = folder / "results-augmented.json"
    results = json.loads((folder / "results.json").read_text())
    return results | (json.loads(augmented.read_text()) if augmented.is_file() else {})


def proposals_hash(network: Network, opts: Sequence[Any] = ()) -> str:
    """The ``pretraining`` of :func:`config_hash` for a network that reads the proposals of another one.

    The sizes of test images count: proposals depend on them, although training does not.
    """
    return f"proposals of {config_hash(network.load(opts), without=('TEST', 'DATASETS.TEST'))}"


def alternating_hash(steps: Alternating, opts: Sequence[Sequence[Any]] = ((), ())) -> str:
    """The ``pretraining`` of :func:`config_hash` for steps 3 and 4 of an alternating training, and for its detector.

    Args:
        steps: the networks of steps 1 and 2.
        opts: what was changed in each of them, as KEY VALUE pairs.
    """
    before = proposals_hash(steps.rpn, opts[0])
    return f"alternating after {training_hash(steps.detector.load(opts[1]), pretraining=before)}"


def as_arguments(options: Sequence[Any]) -> list[str]:
    """KEY VALUE pairs as arguments of a command line."""
    return [json.dumps(part) if isinstance(part, list) else str(part) for part in options]


def _run(command: list[str]) -> int:
    """Run a process and return its exit code. Signals that ask to stop are passed on; it then saves its state."""
    process = subprocess.Popen(command)
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    previous = {number: signal.signal(number, lambda n, frame: process.send_signal(n)) for number in numbers}
    try:
        return process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _config_name(path: Path) -> str:
    return str(path.relative_to(CONFIGS)) if path.is_relative_to(CONFIGS) else path.name
