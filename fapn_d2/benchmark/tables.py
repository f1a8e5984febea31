"""Measurements as a table to read and as JSON to keep."""

import json
from collections.abc import Sequence
from pathlib import Path

from .measure import Comparison, Measurement


def table(comparison: Comparison, measurements: Sequence[Measurement]) -> str:
    """One line an alternative; ratios are times (and memory) of the alternative over those of the reference."""
    found = {m.name: m for m in measurements}
    reference = found.get(comparison.reference)
    width = max(len(name) for name in [*comparison.alternatives, ""])
    head = f"{'':{width}}  {'median ms':>10} {'IQR':>7} {'images/s':>9} {'peak MiB':>9} {'x time':>7} {'x memory':>8}"
    lines = [f"{comparison.suite}: " + ", ".join(f"{k} {v}" for k, v in comparison.setting.items()), head]
    for name in comparison.alternatives:
        if name not in found:
            lines.append(f"{name:{width}}  {comparison.skipped.get(name, 'left out')}")
            continue
        m = found[name]
        cells = [
            f"{m.median_ms:10.3f} {m.iqr_ms:7.3f} {1e3 * m.items / m.median_ms:9.1f} {_cell(m.peak_mib, 9)}",
            _ratio(m.median_ms, reference and reference.median_ms, 7),
            _ratio(m.peak_mib, reference and reference.peak_mib, 8),
        ]
        lines.append(f"{name:{width}}  {' '.join(cells)}")
    return "\n".join(lines) + "\n"


def speed_table(comparison: Comparison, measurements: Sequence[Measurement]) -> str:
    """One line a way of running a network: frames a second, and how they compare to the first line and the paper."""
    found = {m.name: m for m in measurements}
    setting = dict(comparison.setting)
    paper, row = setting.pop("paper_fps"), setting.pop("paper_row")
    reference = found.get(comparison.reference)
    width = max(len(name) for name in comparison.alternatives)
    label = "paper, its GPU"
    head = (
        f"{'':{width}}  {'fps':>8} {'median ms':>10} {'IQR':>7} {'peak MiB':>9} {'x fps':>7} {label:>15} {'x paper':>8}"
    )
    title = f"{comparison.suite}: " + ", ".join(f"{k} {v}" for k, v in setting.items())
    lines = [title + (f" (paper: {row})" if row else ""), head]
    for name in comparison.alternatives:
        if name not in found:
            lines.append(f"{name:{width}}  {comparison.skipped.get(name, 'left out')}")
            continue
        m = found[name]
        fps = 1e3 * m.items / m.median_ms
        first = reference and 1e3 * reference.items / reference.median_ms
        lines.append(
            f"{name:{width}}  {fps:8.1f} {m.median_ms:10.3f} {m.iqr_ms:7.3f} {_cell(m.peak_mib, 9)} "
            f"{_ratio(fps, first, 7)} {_cell(paper, len(label) + 1)} {_ratio(fps, paper, 8)}"
        )
    return "\n".join(lines) + "\n"


def write_json(
    path: str, machine: dict[str, object], measurements: Sequence[Measurement], goals: Sequence[dict[str, object]] = ()
) -> None:
    """``machine``, one record a measurement and, where there are goals, one a goal; the folder is made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    records = [vars(m) for m in measurements]
    content = {**machine, "measurements": records} | ({"goals": list(goals)} if goals else {})
    Path(path).write_text(json.dumps(content, indent=1) + "\n")


def _ratio(value: float | None, reference: float | None, width: int) -> str:
    return _cell(value / reference if value is not None and reference else None, width, digits=2)


def _cell(value: float | None, width: int, digits: int = 1) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.{digits}f}"
