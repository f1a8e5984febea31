"""The papers' numbers beside ours, as Markdown and as one HTML page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..visualization.page import Page
from .ledger import Ledger, Row
from .markdown import markdown_table
from .numbers import _pretraining_of, numbers_of, records_of
from .records import Record

NOT_MEASURED = "not measured"
_TITLE = "The papers' numbers and ours"
_LEGEND = (
    "A number alone is the paper's. Where ours is known: paper → mean of ours ± standard deviation over seeds "
    "(difference). Parameters and GFLOPs are counted on the network; the rest needs training. "
    '"From random weights" beside a number: the paper starts from pretrained weights.'
)


@dataclass(frozen=True)
class Block:
    """A heading, a sentence, a table, and remarks on its rows."""

    chapter: str  #: title of the paper; "" for what is of no paper
    title: str
    about: str
    header: list[str]
    lines: list[list[str]]
    notes: list[str]


def report(ledgers: Sequence[Ledger], records: Sequence[Record]) -> list[Block]:
    """A block for each table, and one for the runs that belong to no row."""
    blocks, used = [], set()
    for ledger in ledgers:
        for table in dict.fromkeys(row.table for row in ledger.rows):
            rows = [row for row in ledger.rows if row.table == table]
            metrics = list(dict.fromkeys(metric for row in rows for metric in row.paper))
            lines, notes = [], _starts(rows)
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


def _starts(rows: Sequence[Row]) -> list[str]:
    """For each kind of weights that are worse than the paper's at the start of training: the rows that start so."""
    starts = dict.fromkeys(row.start for row in rows if row.start)
    return [
        f"trained from {start}, where the paper starts from pretrained weights: "
        + ", ".join(row.id for row in rows if row.start == start)
        for start in starts
    ]


def to_markdown(blocks: Sequence[Block]) -> str:
    """Headings and tables."""
    parts = [f"# {_TITLE}", "", _LEGEND, ""]
    for chapter, block in _with_chapters(blocks):
        parts += [f"## {chapter}", ""] if chapter else []
        parts += [f"{'###' if block.chapter else '##'} {block.title}", "", block.about, ""]
        parts += [markdown_table(block.header, block.lines), ""]
        parts += [*(f"- {note}" for note in block.notes), *[""] * bool(block.notes)]
    return "\n".join(parts)


def to_html(blocks: Sequence[Block]) -> str:
    """One page that needs no other file."""
    page = Page(_TITLE, _LEGEND)
    for chapter, block in _with_chapters(blocks):
        if chapter:
            page.section(chapter)
        if block.chapter:
            page.heading(block.title, block.about)
        else:
            page.section(block.title, block.about)
        measured = [i for i, line in enumerate(block.lines) if not line[-1].startswith("not ")]
        page.table(block.header, block.lines, left=True, marked=measured)
        if block.notes:
            page.notes(block.notes)
    return page.html()


def _with_chapters(blocks: Sequence[Block]) -> Iterator[tuple[str, Block]]:
    """Each block with its chapter where that begins, else with ""."""
    for before, block in zip((None, *blocks), blocks):
        begins = before is None or before.chapter != block.chapter
        yield block.chapter if begins else "", block


def _provenance(row: Row, records: Sequence[Record]) -> str:
    """Seeds, device, commit and config hash of the measured runs, or the reason why there are none."""
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
