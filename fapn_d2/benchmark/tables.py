"""Measurements as a table to read and as JSON to keep."""

from collections.abc import Callable, Sequence
from pathlib import Path

from tabulate import tabulate

from .. import files
from .measure import Comparison, Measurement

_TIMES = ("median ms", "IQR")


def table(comparison: Comparison, measurements: Sequence[Measurement]) -> str:
    """One line for each alternative; ratios are its time (and memory) divided by the reference's."""
    reference = _reference(comparison, measurements)

    def cells(m: Measurement) -> list[str]:
        return [
            *_times(m),
            _cell(1e3 * m.items / m.median_ms),
            _cell(m.peak_mib),
            _ratio(m.median_ms, reference and reference.median_ms),
            _ratio(m.peak_mib, reference and reference.peak_mib),
        ]

    header = (*_TIMES, "images/s", "peak MiB", "x time", "x memory")
    return _text(comparison, measurements, _title(comparison.suite, comparison.setting), header, cells)


def speed_table(comparison: Comparison, measurements: Sequence[Measurement]) -> str:
    """One line for each way of running a network: frames per second, and these over the first way's and the paper's."""
    setting = dict(comparison.setting)
    paper, row = setting.pop("paper_fps"), setting.pop("paper_row")
    reference = _reference(comparison, measurements)

    def frames(m: Measurement) -> float:
        return 1e3 * m.items / m.median_ms

    def cells(m: Measurement) -> list[str]:
        first = reference and frames(reference)
        ratios = [_ratio(frames(m), first), _cell(paper), _ratio(frames(m), paper)]
        return [_cell(frames(m)), *_times(m), _cell(m.peak_mib), *ratios]

    header = ("fps", *_TIMES, "peak MiB", "x fps", "paper, its GPU", "x paper")
    title = _title(comparison.suite, setting) + (f" (paper: {row})" if row else "")
    return _text(comparison, measurements, title, header, cells)


def stage_table(measurements: Sequence[Measurement]) -> str:
    """One line for each stage of a network in one setting, with its share of their sum."""
    total = sum(m.median_ms for m in measurements)
    rows = [[m.name, *_times(m), _cell(100 * m.median_ms / total)] for m in measurements]
    header = ("", *_TIMES, "%")
    body = tabulate(rows, header, tablefmt="plain", disable_numparse=True, colalign=("left", *["right"] * 3))
    return f"{_title('stages', measurements[0].setting)}\n{body}\n"


def write_json(
    path: str, machine: dict[str, object], measurements: Sequence[Measurement], goals: Sequence[dict[str, object]] = ()
) -> None:
    """Write ``machine``, one record for each measurement and, if there are goals, one for each of them; the folder is
    made if it does not exist."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    records = [vars(m) for m in measurements]
    files.write_json(path, {**machine, "measurements": records} | ({"goals": list(goals)} if goals else {}))


def _text(
    comparison: Comparison,
    measurements: Sequence[Measurement],
    title: str,
    header: Sequence[str],
    cells: Callable[[Measurement], list[str]],
) -> str:
    """Title, a line for each alternative that was measured, and below them the others with the reason."""
    found = {m.name: m for m in measurements}
    rows = [[name, *cells(found[name])] for name in comparison.alternatives if name in found]
    align = ("left", *["right"] * len(header))
    body = tabulate(rows, ("", *header), tablefmt="plain", disable_numparse=True, colalign=align if rows else None)
    others = [name for name in comparison.alternatives if name not in found]
    lines = [title, body, *(f"{name}  {comparison.skipped.get(name, 'left out')}" for name in others)]
    return "\n".join(lines) + "\n"


def _reference(comparison: Comparison, measurements: Sequence[Measurement]) -> Measurement | None:
    return next((m for m in measurements if m.name == comparison.reference), None)


def _title(suite: str, setting: dict[str, object]) -> str:
    return f"{suite}: " + ", ".join(f"{key} {value}" for key, value in setting.items())


def _times(m: Measurement) -> list[str]:
    return [_cell(m.median_ms, digits=3), _cell(m.iqr_ms, digits=3)]


def _ratio(value: float | None, reference: float | None) -> str:
    return _cell(value / reference if value is not None and reference else None, digits=2)


def _cell(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
