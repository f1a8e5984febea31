"""The papers' numbers beside ours, as Markdown and as one HTML page."""

import html
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .ledger import Ledger, Row
from .paper_metrics import ELSEWHERE, find
from .run_records import PRETRAINING, Record, config_hash, training_hash

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Number:
    """One printed number and ours."""

    printed: float
    ours: tuple[float, ...]  #: one a seed; none where nothing is measured

    @property
    def text(self) -> str:
        """``77.4`` or ``77.4 → 77.12 ± 0.21 (-0.28)``: printed, mean of ours, standard deviation, difference."""
        if not self.ours:
            return str(self.printed)
        mean = statistics.fmean(self.ours)
        spread = f" ± {statistics.stdev(self.ours):.2f}" if len(self.ours) > 1 else ""
        difference = round(mean - self.printed, 2) + 0.0  # no -0.00
        return f"{self.printed} → {mean:.2f}{spread} ({difference:+.2f})"


@dataclass(frozen=True)
class Block:
    """A heading, a sentence, a table, and remarks on its rows."""

    chapter: str  #: title of the paper; "" for what is of no paper
    title: str
    about: str
    header: list[str]
    lines: list[list[str]]
    notes: list[str]


def numbers_of(row: Row, records: Sequence[Record]) -> dict[str, Number]:
    """Every number that the paper prints for a row, with ours.

    Args:
        row: its own ``measured`` counts, too.
        records: those of this row's networks, see :func:`records_of`.
    """
    parameters = row.measured.get("inference_params") or row.measured.get("params", 0)
    sizes = {"params_M": parameters / 1e6, "gflops": row.measured.get("gflops", 0)}
    numbers = {}
    for metric, printed in row.paper.items():
        ours = [sizes[metric]] if sizes.get(metric) else []
        ours += [run["metrics"][metric] for run in row.measured.get("runs", []) if metric in run["metrics"]]
        if metric not in ELSEWHERE:
            ours += [value for r in records if (value := find(r.results, metric, r.network)) is not None]
        numbers[metric] = Number(printed, tuple(ours))
    return numbers


def records_of(row: Row, records: Sequence[Record]) -> list[Record]:
    """The runs of this row's networks as they stand in the ledger, whichever row they were started for."""
    if not records:
        return []
    before = training_hash(row.pretraining.load()) if row.pretraining else ""
    hashes = {config_hash(network.load(), pretraining=before): name for name, network in row.networks.items()}
    return [r for r in records if hashes.get(r.config_hash) == r.network]


def _pretraining_of(row: Row, records: Sequence[Record]) -> list[Record]:
    if not row.pretraining or not records:
        return []
    expected = config_hash(row.pretraining.load())
    return [r for r in records if (r.network, r.config_hash) == (PRETRAINING, expected)]


def report(ledgers: Sequence[Ledger], records: Sequence[Record]) -> list[Block]:
    """A block for each table, and one for the runs that are no row's."""
    blocks, used = [], set()
    for ledger in ledgers:
        for table in dict.fromkeys(row.table for row in ledger.rows):
            rows = [row for row in ledger.rows if row.table == table]
            metrics = list(dict.fromkeys(metric for row in rows for metric in row.paper))
            lines, notes = [], []
            for row in rows:
                own, before = records_of(row, records), _pretraining_of(row, records)
                used |= {id(record) for record in (*own, *before)}
                notes += [f"{row.id}: {row.note}"] if row.note else []
                notes += [f"{row.id}: pretraining gave {_scores(r)} ({_provenance(row, [r])})" for r in before]
                numbers = numbers_of(row, own)
                cells = [numbers[metric].text if metric in numbers else "" for metric in metrics]
                lines.append([row.id, row.method, *cells, _provenance(row, own)])
            header = ["row", "method", *metrics, "runs"]
            blocks.append(Block(ledger.title, table, rows[0].about, header, lines, notes))
    trials = [record for record in records if id(record) not in used]
    if trials:
        blocks.append(_trials(trials))
    return blocks


def to_markdown(blocks: Sequence[Block]) -> str:
    """Headings and tables."""
    parts = ["# The papers' numbers and ours", "", _legend(), ""]
    for chapter, block in _with_chapters(blocks):
        parts += [f"## {chapter}", ""] if chapter else []
        parts += [f"{'###' if block.chapter else '##'} {block.title}", "", block.about, ""]
        parts += [_line(block.header), _line(["---"] * len(block.header)), *map(_line, block.lines), ""]
        parts += [*(f"- {note}" for note in block.notes), *[""] * bool(block.notes)]
    return "\n".join(parts)


def to_html(blocks: Sequence[Block]) -> str:
    """One page that needs no other file."""
    return "\n".join(_html(blocks)) + "\n"


def _html(blocks: Sequence[Block]) -> Iterator[str]:
    yield "<!DOCTYPE html>"
    yield '<html lang="en"><head><meta charset="utf-8"><title>The papers\' numbers and ours</title><style>'
    yield "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:90em;padding:0 1em;color:#222}"
    yield "table{border-collapse:collapse;display:block;overflow-x:auto;margin:.5em 0 1em}"
    yield "h3{margin:2em 0 .3em}p,ul{margin:.3em 0;max-width:60em}ul{color:#666;font-size:.9em}"
    yield "th,td{padding:.25em .7em;border-bottom:1px solid #ddd;text-align:left;white-space:nowrap}"
    yield "th{background:#f4f4f4}tr.measured td{background:#f2faf2}td:first-child{font-family:monospace}"
    yield "</style></head><body><h1>The papers' numbers and ours</h1>"
    yield f"<p>{html.escape(_legend())}</p>"
    for chapter, block in _with_chapters(blocks):
        if chapter:
            yield f"<h2>{html.escape(chapter)}</h2>"
        level = 3 if block.chapter else 2
        yield f"<h{level}>{html.escape(block.title)}</h{level}><p>{html.escape(block.about)}</p><table>"
        yield f"<tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in block.header)}</tr>"
        for line in block.lines:
            kind = "" if line[-1].startswith("not ") else ' class="measured"'
            yield f"<tr{kind}>{''.join(f'<td>{html.escape(cell)}</td>' for cell in line)}</tr>"
        yield "</table>"
        if block.notes:
            yield f"<ul>{''.join(f'<li>{html.escape(note)}</li>' for note in block.notes)}</ul>"
    yield "</body></html>"


def _with_chapters(blocks: Sequence[Block]) -> Iterator[tuple[str, Block]]:
    """Each block with its chapter where that begins, else with ""."""
    for before, block in zip((None, *blocks), blocks):
        begins = before is None or before.chapter != block.chapter
        yield block.chapter if begins else "", block


def _legend() -> str:
    return (
        "A number alone is the paper's. Where ours is known: paper → mean of ours ± standard deviation over seeds "
        "(difference). Parameters and GFLOPs are counted on the network; the rest needs training."
    )


def _provenance(row: Row, records: Sequence[Record]) -> str:
    """Seeds, device, commit and config hash of what was measured, or why nothing was."""
    if row.pending:
        return f"not built: {row.pending}"
    runs = [(r.seed, _device(r), _commit(r), r.config_hash) for r in records]
    runs += [
        (run["seed"], *(str(run.get(key, "?")) for key in ("device", "commit", "config_hash")))
        for run in row.measured.get("runs", [])
    ]
    if not runs:
        return NOT_MEASURED
    seeds, *rest = zip(*runs)
    devices, commits, hashes = (", ".join(sorted(set(values))) for values in rest)
    plural = "s" if len(seeds) > 1 else ""
    return f"seed{plural} {', '.join(map(str, sorted(seeds)))}; {devices}; commit {commits}; config {hashes}"


def _device(record: Record) -> str:
    return f"{record.processes} x {record.device}"


def _commit(record: Record) -> str:
    commit, plus, _ = record.commit.partition("+")
    return f"{commit[:7]} with changes" if plus else commit[:7]


def _trials(records: Sequence[Record]) -> Block:
    lines = []
    for record in records:
        pairs = zip(record.changed[::2], record.changed[1::2])
        changed = "; ".join(f"{key} {value}" for key, value in pairs) or "the ledger has changed since"
        started = f"{record.row} {record.network}".strip()
        ran = f"seed {record.seed}, {record.iterations} iterations"
        place = [_device(record), _commit(record), record.config_hash]
        lines.append([started, record.config, changed, _scores(record), ran, *place])
    header = ["started for", "config", "changed", "scores", "run", "device", "commit", "config hash"]
    about = "Shrunken or changed by hand: they show that a row runs, and are not to be compared with its numbers."
    return Block("", "Trials", about, header, lines, [])


def _scores(record: Record) -> str:
    """Its means, not those of single classes."""
    return ", ".join(
        f"{task}/{name} {value:.2f}"
        for task, named in record.results.items()
        if isinstance(named, dict)
        for name, value in named.items()
        if isinstance(value, (int, float)) and "-" not in name
    )


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
