"""Comparing finished runs: scores with their spread over seeds, time per iteration, loss curves."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from .markdown import markdown_table
from .runs import Group


def headline_scores(groups: Sequence[Group]) -> list[str]:
    """Keys that all runs have, without those of single classes, which have a dash in their names."""
    common = [key for key in groups[0].runs[0].scores if "-" not in key.partition("/")[2]]
    return [key for key in common if all(key in run.scores for group in groups for run in group.runs)]


def comparison_table(groups: Sequence[Group], keys: Sequence[str] = ()) -> str:
    """A Markdown table with a row for each group, with the difference from the first group's mean.

    Args:
        groups: groups of runs to compare.
        keys: "task/metric"; default: :func:`headline_scores`.

    Raises:
        ValueError: not all runs have a key.
    """
    known = headline_scores(groups)
    for key in keys:
        if lacking := [str(run.folder) for group in groups for run in group.runs if key not in run.scores]:
            raise ValueError(f"no score {key!r} in {', '.join(lacking)}; all runs have {', '.join(known)}")
    keys = list(keys) or known
    header = ["", "runs", *(key.replace("/", " ") for key in keys), "s an iteration"]
    rows = []
    for group in groups:
        cells = [group.name, str(len(group.runs))]
        for key in keys:
            mean, spread = group.score(key)
            text = f"{mean:.1f}" + (f" ± {spread:.1f}" if spread is not None else "")
            difference = round(mean - groups[0].score(key)[0], 1) + 0.0  # no -0.0
            cells.append(text if group is groups[0] else f"{text} ({difference:+.1f})")
        cells.append(f"{statistics.median(run.seconds for run in group.runs):.2f}")
        rows.append(cells)
    return markdown_table(header, rows)


def shared_losses(groups: Sequence[Group]) -> tuple[list[str], list[str]]:
    """Losses that all runs logged, and those that only some did."""
    runs = [run for group in groups for run in group.runs]
    every = list(dict.fromkeys(key for run in runs for key in run.losses))
    shared = [key for key in every if all(run.losses.get(key) for run in runs)]
    return shared, [key for key in every if key not in shared]


def draw_losses(groups: Sequence[Group], path: str | Path) -> list[str]:
    """Write a picture with a chart for each loss that all runs have; thin lines are runs, thick lines their means.

    The total is left out if the methods have different losses, because totals cannot be compared then.

    Args:
        groups: groups of runs to compare.
        path: the picture, PNG, SVG or PDF by its ending.

    Returns:
        The losses that only some runs have, which are not drawn.
    """
    keys, others = shared_losses(groups)
    if others and len(keys) > 1:
        keys.remove("total_loss")
    columns = min(len(keys), 2)
    rows = -(-len(keys) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.1 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for key, chart in zip(keys, axes):
        for number, group in enumerate(groups):
            color, style = f"C{number}", ("-", "--", "-.", ":")[number % 4]
            lines = [run.losses[key] for run in group.runs]
            if len(lines) > 1:
                for line in lines:
                    chart.plot(*zip(*line), color=color, linewidth=0.6, alpha=0.45)
            steps = sorted(set.intersection(*({step for step, _ in line} for line in lines)))
            values = [dict(line) for line in lines]
            mean = [statistics.fmean(value[step] for value in values) for step in steps]
            chart.plot(steps, mean, color=color, linestyle=style, linewidth=1.6, label=group.name)
        chart.set_title(key, fontsize=10)
        chart.set_ylim(bottom=0)
        chart.set_xlabel("iteration", fontsize=8)
        chart.tick_params(labelsize=8)
        chart.spines[["top", "right"]].set_visible(False)
    for empty in list(axes):
        empty.set_visible(False)
    figure.axes[0].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)
    return others
