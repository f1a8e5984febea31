"""Frames per second and mIoU of real-time networks, as printed in papers and as measured here (SFNet's Figure 1).

Accuracy comes from the ledgers and from the records of ``tools/reproduce.py``, speed from the ledgers and from files of
``tools/benchmark.py speed --json``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .ledger import Ledger, Row
from .numbers import numbers_of, records_of
from .records import Record

PAPER, OTHERS, MEASURED = "paper, its GPU", "others, as printed in the paper", "measured here"
_PRINTED_MIOU, _MEASURED_MIOU = ("mIoU_test", "mIoU"), ("mIoU_val", "mIoU")


@dataclass(frozen=True)
class Timing:
    """The speed of a row's network on some device here."""

    row: str  #: id in the ledger
    fps: float
    device: str
    how: str  #: precision and options, in the words of the benchmark


@dataclass(frozen=True)
class Point:
    """One network in one table."""

    label: str
    kind: str  #: PAPER, OTHERS or MEASURED
    fps: float | None  #: frames per second; None if it was not measured
    miou: float | None  #: percent; None if it was not measured
    note: str = ""


@dataclass(frozen=True)
class SpeedTable:
    """The points of one table of a paper."""

    slug: str  #: the first part of the ids of its rows, as in "sfnet.t6"
    title: str
    about: str
    points: tuple[Point, ...]

    def text(self) -> str:
        """The table as text; within each kind, the fastest network first."""
        width = max(len(p.label) for p in self.points)
        lines = [f"{self.title}. {self.about}", f"  {'':{width}}  {'fps':>7} {'mIoU':>6}"]
        for kind in (OTHERS, PAPER, MEASURED):
            points = sorted((p for p in self.points if p.kind == kind), key=lambda p: -(p.fps or 0))
            lines += [f"  {kind}:"] * bool(points)
            lines += [f"  {p.label:{width}}  {_cell(p.fps, 7)} {_cell(p.miou, 6)}  {p.note}".rstrip() for p in points]
        return "\n".join(lines)


def read_timings(path: str | Path) -> list[Timing]:
    """The timings of ledger rows in a file of ``tools/benchmark.py speed --json``; one per way of running a network.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file was not written by that command.
    """
    try:
        content = json.loads(Path(path).read_text())
        return [
            Timing(m["setting"]["paper_row"], 1e3 * m["items"] / m["median_ms"], content["device"], m["name"])
            for m in content["measurements"]
            if m["suite"] == "speed" and m["setting"]["paper_row"]
        ]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a file of tools/benchmark.py speed --json: {error!r}") from error


def speed_tables(
    ledgers: Sequence[Ledger], records: Sequence[Record], timings: Sequence[Timing], *, prefix: str = ""
) -> list[SpeedTable]:
    """Every table that prints frames per second and mIoU.

    Args:
        ledgers: all papers.
        records: records of runs, for accuracy; runs of other configs are left out.
        timings: timings, for speed; if a network was run in several ways, the fastest counts.
        prefix: the start of the ids of the rows of interest, as in "sfnet.t6"; "" for all tables.

    Raises:
        ValueError: there is no such table.
    """
    tables: dict[str, list[tuple[Ledger, Row]]] = {}
    for ledger in ledgers:
        for row in ledger.rows:
            if "FPS" in row.paper and any(name in row.paper for name in _PRINTED_MIOU):
                tables.setdefault(row.id.rsplit(".", 1)[0], []).append((ledger, row))
    chosen = {slug: rows for slug, rows in tables.items() if slug.startswith(prefix)}
    if not chosen:
        raise ValueError(
            f"no table with speed and mIoU has an id that starts with {prefix!r}; there are {list(tables)}"
        )
    return [_table(slug, rows, records, timings) for slug, rows in chosen.items()]


def _table(
    slug: str, rows: Sequence[tuple[Ledger, Row]], records: Sequence[Record], timings: Sequence[Timing]
) -> SpeedTable:
    ledger, first = rows[0]
    points = [
        Point(other.method, OTHERS, other.paper["FPS"], _printed_miou(other.paper))
        for other in ledger.others.get(first.table, ())
    ]
    for _, row in rows:
        tensorrt = row.paper.get("FPS_tensorrt")
        miou = _printed_miou(row.paper)
        note = f"{tensorrt:g} fps with TensorRT" if tensorrt else ""
        label = _label(row, alone=sum(other.method == row.method for _, other in rows) == 1)
        points.append(Point(label, PAPER, row.paper["FPS"], miou, note))
        points += _measured(row, label, records, timings)
    name = ledger.title.split(" (")[0].split(":")[0]
    return SpeedTable(slug, f"{name}, {first.table}", first.about, tuple(points))


def _printed_miou(printed: Mapping[str, float]) -> float:
    return next(printed[name] for name in _PRINTED_MIOU if name in printed)


def _measured(row: Row, label: str, records: Sequence[Record], timings: Sequence[Timing]) -> list[Point]:
    """One point, or none if nothing is known."""
    own = records_of(row, records)
    numbers = numbers_of(row, own)
    accuracies = next((numbers[n].ours for n in _MEASURED_MIOU if n in numbers and numbers[n].ours), ())
    known = [Timing(row.id, fps, "the ledger's device", "") for fps in numbers["FPS"].ours]
    fastest = max([*known, *(t for t in timings if t.row == row.id)], key=lambda t: t.fps, default=None)
    if not accuracies and fastest is None:
        return []
    notes = [f"{fastest.device}, {fastest.how}".removesuffix(", ")] if fastest else []
    notes += [f"mean of {len(accuracies)} runs"] * (len(accuracies) > 1)
    miou = sum(accuracies) / len(accuracies) if accuracies else None
    if accuracies and row.start:  # in the label, because charts show no notes
        label = f"{label}, from {row.start}"
    return [Point(label, MEASURED, fastest.fps if fastest else None, miou, "; ".join(notes))]


def _label(row: Row, *, alone: bool) -> str:
    """The row's method, without the network if the name contains it, as in "SFNet(DF1), DF1".

    If several rows have the same method, the size of images is added.
    """
    name, _, network = row.method.rpartition(", ")
    label = name if f"({network})" in name else row.method
    if alone or row.pending:
        return label
    given = row.network.load().INPUT
    return f"{label}, {given.MIN_SIZE_TEST}x{given.MAX_SIZE_TEST}"


def _cell(value: float | None, width: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.1f}"
