"""Finished runs on disk: scores and losses of single runs and of groups that differ in the seed."""

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """The content of the folder of one finished run."""

    folder: Path
    config_file: str
    scores: dict[str, float]  #: "task/metric" -> value; of several test sets, the first
    losses: dict[str, list[tuple[int, float]]]  #: name -> (iteration, value), as logged; total first
    seconds: float  #: median time of an iteration

    @classmethod
    def read(cls, folder: str | Path) -> "Run":
        """Read ``results.json``, ``metrics.json`` and ``run.json`` of a folder that ``tools/train_net.py`` wrote.

        Raises:
            FileNotFoundError: one of them is missing: the run is not finished, or was not scored.
        """
        folder = Path(folder)
        texts = {}
        for name in ("results.json", "metrics.json", "run.json"):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder / name} is missing: a run is compared once it has been trained and scored; "
                    "tools/train_net.py --resume brings it to its end"
                )
            texts[name] = (folder / name).read_text()
        results = json.loads(texts["results.json"])
        if results and all(isinstance(value, dict) for task in results.values() for value in task.values()):
            results = next(iter(results.values()))
        times = [entry["time"] for entry in map(json.loads, texts["metrics.json"].splitlines()) if "time" in entry]
        return cls(
            folder=folder,
            config_file=json.loads(texts["run.json"])["config_file"],
            scores={
                f"{task}/{name}": math.nan if value is None else value  # JSON has no NaN
                for task, found in results.items()
                for name, value in found.items()
            },
            losses=read_losses(folder / "metrics.json"),
            seconds=statistics.median(times),
        )


@dataclass(frozen=True)
class Group:
    """Runs of one method with different seeds."""

    name: str
    runs: tuple[Run, ...]

    @classmethod
    def parse(cls, text: str) -> "Group":
        """From ``NAME=FOLDER[,FOLDER...]``.

        Raises:
            ValueError: the text has another form, or the runs are of different configs.
            FileNotFoundError: see :meth:`Run.read`.
        """
        name, equals, folders = text.partition("=")
        if not (name and equals and folders):
            raise ValueError(f"{text!r} does not name runs; write NAME=FOLDER or NAME=FOLDER,FOLDER,...")
        runs = tuple(Run.read(folder) for folder in folders.split(","))
        configs = sorted({run.config_file for run in runs})
        if len(configs) > 1:
            raise ValueError(f"the runs of {name} have different configs: {', '.join(configs)}; name them apart")
        return cls(name, runs)

    def score(self, key: str) -> tuple[float, float | None]:
        """The mean, and the standard deviation if there are several runs."""
        values = [run.scores[key] for run in self.runs]
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def read_losses(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Losses of a ``metrics.json``: name -> (iteration, value), total first."""
    losses: dict[str, dict[int, float]] = {"total_loss": {}}
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        for key, value in entry.items():
            if key.startswith("loss_") or key == "total_loss":
                # a resumed run logs iterations after its checkpoint a second time: the second values count
                losses.setdefault(key, {})[entry["iteration"] + 1] = value
    return {key: sorted(points.items()) for key, points in losses.items()}
