"""What ``tools/reproduce.py`` prints about tables, rows and runs."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import replace

from detectron2.config import CfgNode

from ..messages import nearest
from .jobs import PAIR_TOOL, TRAIN_TOOL, as_arguments
from .ledger import Ledger, Network, Row
from .metrics import ELSEWHERE
from .numbers import numbers_of
from .records import STEPS, Record

#: The interpreter of `make install`, as in the READMEs.
_PYTHON = ".venv/bin/python"


def describe_list(ledgers: Sequence[Ledger], *, prefix: str = "") -> str:
    """Every table with its rows, each built, measured, or pending and why.

    Args:
        ledgers: all papers.
        prefix: only rows whose id starts so; "" for all.

    Raises:
        ValueError: no id starts so.
    """
    lines, shown, built = [], 0, 0
    width = max(len(row.id) for ledger in ledgers for row in ledger.rows)
    for ledger in ledgers:
        rows = [row for row in ledger.rows if row.id.startswith(prefix)]
        if rows:
            lines += ["", ledger.title]
        table = None
        for row in rows:
            if row.table != table:
                table = row.table
                lines.append(f"  {table}: {row.about}")
            shown, built = shown + 1, built + bool(row.networks)
            lines.append(f"    {row.id:{width}}  {_state(row)}")
    if not shown:
        slugs = {row.id.rsplit(".", 1)[0] for ledger in ledgers for row in ledger.rows}
        papers = [ledger.paper for ledger in ledgers]
        hint = nearest(prefix, sorted(slugs.union(papers)), otherwise=f"; papers: {', '.join(papers)}")
        raise ValueError(f"no row's id starts with {prefix!r}{hint}")
    lines += ["", f"{built} of {shown} rows are built"]
    return "\n".join(lines).lstrip("\n")


def describe_row(row: Row) -> str:
    """Config, overrides, recipe, the paper's numbers beside ours, and the command of a row."""
    lines = [f"{row.id}: {row.method}", f"{row.table}: {row.about}"]
    lines += ["", "printed and ours:"] + [f"  {name:20} {n.text}" for name, n in numbers_of(row, []).items()]
    lines += [f"  {name} is {ELSEWHERE[name]}" for name in row.paper if name in ELSEWHERE]
    if row.start:
        lines += ["", f"trained from {row.start}; the paper starts from pretrained weights"]
    if row.note:
        lines += ["", f"note: {row.note}"]
    if row.pending:
        return "\n".join([*lines, "", f"not built: {row.pending}"])
    if row.pretraining:
        place = f"output/{row.id}/pretraining"
        lines += ["", "pretraining, once for all seeds:", *_describe_network(row.pretraining, ["OUTPUT_DIR", place])]
    if row.proposals:
        place = f"output/{row.id}/rpn"
        lines += ["", "network that gives proposals, once for all seeds:"]
        lines += _describe_network(row.proposals, ["OUTPUT_DIR", place])
    if row.alternating:
        lines += _describe_steps(row)
    for name, network in row.networks.items():
        start = ["MODEL.WEIGHTS", f"{place}/model_final.pth"] if row.pretraining else []
        lines += ["", f"network {name}:" if name else "network:", *_describe_network(network, start)]
    if row.merged:
        lines += ["", "scored together: objects of the network instances, the semantic map of the network semantic"]
        lines += [f"  by hand    {_PYTHON} {_relative(PAIR_TOOL)} --instances FILE --semantic FILE --num-gpus 8"]
    lines += ["", f"{_PYTHON} tools/reproduce.py run {row.id}"]
    return "\n".join(lines)


def describe_runs(row: Row, records: Sequence[Record]) -> str:
    """The paper's numbers beside those of the given runs; a pretraining among them gives none."""
    trial = any(record.changed for record in records)
    for record in records:  # weights given by hand
        changed = dict(zip(record.changed[::2], record.changed[1::2]))
        if "MODEL.WEIGHTS" in changed:
            row = replace(row, start="" if changed["MODEL.WEIGHTS"] else "random weights")
    records = [record for record in records if record.network in row.scored]
    head = f"{row.id}, {len(records)} run{'s' if len(records) > 1 else ''}"
    lines = [f"{head}: a trial, not comparable" if trial else head]
    lines += [f"  {name:20} {number.text}" for name, number in numbers_of(row, records).items()]
    return "\n".join(lines)


def _describe_network(network: Network, opts: Sequence[str]) -> list[str]:
    lines = [f"  config     {_relative(network.config)}"]
    lines += [f"  override   {key} {value}" for key, value in network.overrides.items()]
    lines += [f"  {line}" for line in _recipe(network.load(opts))]
    return [*lines, f"  by hand    {_command(network, opts)}"]


def _describe_steps(row: Row) -> list[str]:
    """The four trainings of an alternating training, with commands that need the proposals of the step before."""
    place, frozen = f"output/{row.id}/step", row.alternating.frozen()
    networks = (row.alternating.rpn, row.alternating.detector, frozen.rpn, frozen.detector)
    lines = [
        "",
        "four trainings in turns; detectors read the proposals of the step before; then heads are joined",
    ]
    for number, (name, network) in enumerate(zip(STEPS, networks), 1):
        start = ["MODEL.WEIGHTS", f"{place}2/model_final.pth"] if number > 2 else []
        lines += ["", f"{name}:", *_describe_network(network, [*start, "OUTPUT_DIR", f"{place}{number}"])]
    return lines


def _state(row: Row) -> str:
    if row.pending:
        return f"not built: {row.pending}"
    runs = len(row.measured.get("runs", []))
    state = f"built, from {row.start}" if row.start else "built"
    return f"{state}, {runs} run{'s' if runs > 1 else ''} recorded" if runs else state


def _recipe(cfg: CfgNode) -> list[str]:
    solver, given = cfg.SOLVER, cfg.INPUT
    decay = (
        f"divided by {1 / solver.GAMMA:g} at {', '.join(map(str, solver.STEPS))}"
        if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR"
        else f"{solver.LR_SCHEDULER_NAME} (power {solver.POLY_LR_POWER})"
    )
    if given.SCALE_CROP.ENABLED:
        scales = ", ".join(map(str, given.SCALE_CROP.SCALES))
        sizes = f"scales {scales} ({given.SCALE_CROP.SAMPLING}), crops {_by(given.SCALE_CROP.SIZE)}"
    else:
        sizes = f"shorter side {', '.join(map(str, given.MIN_SIZE_TRAIN))}, longer at most {given.MAX_SIZE_TRAIN}"
        sizes += f", crops {_by(given.CROP.SIZE)} ({given.CROP.TYPE})" if given.CROP.ENABLED else ""
    return [
        f"data       {', '.join(cfg.DATASETS.TRAIN)} -> {', '.join(cfg.DATASETS.TEST)}",
        f"start      {cfg.MODEL.WEIGHTS or 'random weights'}",
        f"schedule   {solver.MAX_ITER} iterations of {solver.IMS_PER_BATCH} images, {solver.OPTIMIZER}, "
        f"rate {solver.BASE_LR:g}, {decay}, weight decay {solver.WEIGHT_DECAY:g}",
        f"images     {sizes}; tested at {given.MIN_SIZE_TEST or 'their own size'}",
    ]


def _command(network: Network, opts: Sequence[str]) -> str:
    tool = _relative(TRAIN_TOOL)
    parts = [_PYTHON, tool, "--config-file", _relative(network.config), "--num-gpus", "8"]
    return shlex.join([*parts, *as_arguments(network.options()), *opts])


def _by(size: Sequence[float]) -> str:
    return "x".join(map(str, size))


def _relative(path: os.PathLike) -> str:
    """As seen from here, where that is shorter."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
