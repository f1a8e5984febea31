"""The ledger of the papers' tables: ``configs/<paper>/tables.yaml``, one entry per row that this project reproduces.

A ledger is a YAML file::

    paper: fapn
    title: the title of the paper
    tables:
    - name: Table 1
      about: what the table compares, on which data
      rows:
      - id: fapn.t1.fpn_fam_r50                 unique, starts with the paper
        method: FPN + FAM, R50
        config: some_config.yaml                beside the ledger, or relative to it
        overrides: {MODEL.NECK.ALIGN: deform}   what the row changes in it
        networks: {coco: {config: ..., overrides: ...}, ...}    instead of config, if a row needs several networks;
                                                the row's own overrides are those of each network
        merged: true                            the row's networks "instances" and "semantic" are scored together, and
                                                only this counts: objects of the first, the semantic map of the second
        pretraining: {config: ..., overrides: ...}      what is trained first, on other data, and gives MODEL.WEIGHTS
        proposals: {config: ..., overrides: ...}        the region proposal network that is trained first, and whose
                                                        proposals for DATASETS.TRAIN and DATASETS.TEST the row reads
        alternating: {rpn: {config: ..., overrides: ...}, detector: {config: ..., overrides: ...}}
                                                the networks that 4-step alternating training trains in turns; the row's
                                                config is the detector that they become
        pending: why there is no config yet     instead of config
        paper: {params_M: 31.7, mIoU: 79.7}     as printed, in the paper's units
        read_as: {mIoU: SQ}                     printed headings that are wrong for the row -> the number that it is
        tolerance: {params_M: 0.05}             how far the network's size may be from the printed one
        flops_size: [768, 1536]                 height and width, in pixels, of the image that GFLOPs are printed for
        flops_convention: 2macs                 how the paper counts: a name in complexity.py; macs by default
        trials: median                          what the paper prints of several trials, mean or median; mean by default
        start: random weights                   what our training starts from, if the paper's starts from better weights
        measured: {params: 31698926, gflops: 1.2, runs: [{seed: 1, metrics: {mIoU: 79.5}, device: ..., commit: ...}]}
                                                gflops, flops_T and memory_Gact are counted on the network;
                                                with inference_params if branches for training only are not printed
        note: doubts about the numbers or the recipe, and the choice made here
      others:                                   rows of methods of other papers: numbers to compare with, nothing to run
      - method: ESPNet
        paper: {FPS: 113, mIoU: 60.3}

Fields that all rows of a table share can be given once, on the table; fields that all tables share, on the ledger.
``INHERITED_FIELDS`` lists them. A row's own field wins over its table's field, which wins over the ledger's.
``tolerance`` and ``overrides`` are merged key by key. Of ``config``, ``networks`` and ``pending`` the nearest counts.

A row that two tables print is one config named twice.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from ..checkpoint.join import SHARED
from ..config.loading import CONFIGS, load_config
from ..messages import nearest
from .complexity import CONVENTIONS
from .ledger_fields import (
    ALTERNATING_FIELDS,
    INHERITED_FIELDS,
    LEDGER_FIELDS,
    MEASURED_FIELDS,
    NETWORK_FIELDS,
    OTHER_FIELDS,
    ROW_FIELDS,
    RUN_FIELDS,
    TABLE_FIELDS,
    checked,
    numbers,
)
from .metrics import PLACES
from .records import MERGED

LEDGER_NAME = "tables.yaml"
#: What papers print of several trials.
TRIALS = ("mean", "median")
#: The fields that say how a row is reproduced; each row has exactly one of them.
_WAYS = ("config", "networks", "pending")


@dataclass(frozen=True)
class Network:
    """A config and the changes that a row makes to it."""

    config: Path
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def options(self) -> list[Any]:
        """The overrides as the list KEY VALUE KEY VALUE ... of the command line."""
        return [part for pair in self.overrides.items() for part in pair]

    def load(self, opts: Sequence[Any] = ()) -> CfgNode:
        """The resolved config, with more KEY VALUE pairs on top. Raises what ``load_config`` raises."""
        return load_config(str(self.config), [*self.options(), *opts])


@dataclass(frozen=True)
class Alternating:
    """The two networks of a 4-step alternating training (Ren et al., NIPS 2015, Section 3.2)."""

    rpn: Network
    detector: Network  #: Fast R-CNN on the proposals of ``rpn``

    def frozen(self) -> "Alternating":
        """The networks of steps 3 and 4, whose backbone keeps the weights of step 2."""
        change = {"MODEL.FREEZE_PARTS": [SHARED]}
        return Alternating(
            *(replace(network, overrides={**network.overrides, **change}) for network in (self.rpn, self.detector))
        )


@dataclass(frozen=True)
class Row:
    """One row of a table; the fields are those of the file."""

    id: str
    table: str
    about: str
    method: str
    networks: Mapping[str, Network]  #: name -> network; "" is the name of a single one; empty if the row is pending
    paper: Mapping[str, float]
    tolerance: Mapping[str, float]
    pretraining: Network | None = None  #: trained first; its weights are where the networks start
    merged: bool = False  #: the networks "instances" and "semantic" are scored together
    proposals: Network | None = None  #: trained first; the networks read its proposals
    alternating: Alternating | None = None  #: how the row's network gets its weights; None: by one training
    pending: str = ""
    flops_size: tuple[int, int] | None = None
    flops_convention: str = "macs"
    start: str = ""  #: what our training starts from, if the paper's starts from better weights; else ""
    measured: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    trials: str = "mean"  #: what the paper prints of several trials: one of TRIALS
    read_as: Mapping[str, str] = field(default_factory=dict)  #: wrong heading of ``paper`` -> the number that it is

    @property
    def scored(self) -> tuple[str, ...]:
        """Names of the networks whose records count for the row."""
        return (MERGED,) if self.merged else tuple(self.networks)

    @property
    def network(self) -> Network:
        """The network of a row that has exactly one.

        Raises:
            ValueError: the row is pending, or needs several networks.
        """
        if self.pending:
            raise ValueError(f"row {self.id} is not built yet: {self.pending}")
        if "" not in self.networks:
            raise ValueError(f"row {self.id} needs several networks: {', '.join(self.networks)}; name one of them")
        return self.networks[""]


@dataclass(frozen=True)
class Other:
    """A method of another paper, with its numbers as this paper prints them."""

    method: str
    paper: Mapping[str, float]


@dataclass(frozen=True)
class Ledger:
    """The rows of one paper, in the order of the file."""

    paper: str
    title: str
    path: Path
    rows: tuple[Row, ...]
    others: Mapping[str, tuple[Other, ...]] = field(default_factory=dict)  #: table -> methods of other papers


def load_ledgers(configs: Path = CONFIGS) -> list[Ledger]:
    """Every ledger below ``configs``, ordered by the name of its folder.

    Raises:
        FileNotFoundError: there is no ledger.
        ValueError: see :func:`load_ledger`.
    """
    paths = sorted(configs.glob(f"*/{LEDGER_NAME}"))
    if not paths:
        raise FileNotFoundError(f"no {LEDGER_NAME} in the folders of {configs}")
    return [load_ledger(path) for path in paths]


@functools.cache
def load_ledger(path: Path) -> Ledger:
    """Read and check one ledger.

    Raises:
        ValueError: a field is unknown, missing or of the wrong type, a config file does not exist, or an id stands
            there twice or belongs to another paper. The message names file, row and field.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    content = checked(content, LEDGER_FIELDS, str(path), needed=("paper", "title", "tables"))
    rows: list[Row] = []
    others = {}
    for table in content["tables"]:
        where = f"{path}, table {table.get('name') if isinstance(table, dict) else table}"
        table = checked(table, TABLE_FIELDS, where, needed=("name", "about", "rows"))
        rows += [_row(row, table, content, path) for row in table["rows"]]
        others[table["name"]] = tuple(_other(other, where) for other in table.get("others", []))
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise ValueError(f"{path}: the id {row.id} is there twice; a row in two tables has two ids and one config")
        seen.add(row.id)
    return Ledger(content["paper"], content["title"], path, tuple(rows), others)


def find_row(ledgers: Sequence[Ledger], row_id: str) -> Row:
    """The row with this id. Raises ValueError, with the nearest ids, if there is none."""
    rows = {row.id: row for ledger in ledgers for row in ledger.rows}
    if row_id in rows:
        return rows[row_id]
    papers = f"; papers: {', '.join(ledger.paper for ledger in ledgers)}"
    containing = [known for known in rows if row_id in known]
    otherwise = f"; nearest: {', '.join(containing[:4])}" if containing else papers
    hint = nearest(row_id, rows, limit=4, cutoff=0.4, otherwise=otherwise)
    raise ValueError(f"no row {row_id!r} in the ledgers{hint}")


def iterate_rows(ledgers: Sequence[Ledger]) -> Iterator[Row]:
    """Every row of every ledger."""
    for ledger in ledgers:
        yield from ledger.rows


def _row(content: Any, table: dict, ledger: dict, path: Path) -> Row:
    where = f"{path}, row {content.get('id') if isinstance(content, dict) else content}"
    own = checked(content, ROW_FIELDS, where, needed=("id", "method", "paper"))
    content = _inherited(own, table, ledger)
    if not content["id"].startswith(f"{ledger['paper']}."):
        raise ValueError(f"{where}: ids of this ledger start with {ledger['paper']!r} and a dot")
    ways = [key for key in _WAYS if key in content]
    if len(ways) != 1:
        raise ValueError(
            f"{where} must have one of config, networks and pending; it has {' and '.join(ways) or 'none'}"
        )
    alone = {"config"}
    for key, allowed in (("overrides", {"config", "networks"}), ("pretraining", alone), ("alternating", alone)):
        if key in own and allowed.isdisjoint(content):
            raise ValueError(f"{where} has {key} but no config that this belongs to")
    if "alternating" in own and {"pretraining", "proposals"} & content.keys():
        raise ValueError(f"{where}: alternating training has its own start and its own proposals")
    measured = checked(content.get("measured", {}), MEASURED_FIELDS, f"{where}, measured")
    for run in measured.get("runs", []):
        numbers(checked(run, RUN_FIELDS, f"{where}, measured run", needed=("seed", "metrics"))["metrics"], where)
    read_as = content.get("read_as", {})
    wrong = [f"{a}: {b}" for a, b in read_as.items() if a not in content["paper"] or b not in PLACES]
    if wrong:
        raise ValueError(f"{where}: read_as maps numbers of paper to those that are scored, not {', '.join(wrong)}")
    if content.get("merged") and sorted(content.get("networks", {})) != ["instances", "semantic"]:
        raise ValueError(f"{where}: merged needs two networks, instances and semantic")
    size = content.get("flops_size")
    if size is not None and not (len(size) == 2 and all(type(side) is int and side > 0 for side in size)):
        raise ValueError(f"{where}: flops_size is [height, width] in pixels, got {size}")
    if "gflops" in content["paper"] and "pending" not in content and size is None:
        raise ValueError(f"{where} prints gflops; say for which image by flops_size: [height, width]")
    convention = content.get("flops_convention", "macs")
    if convention not in CONVENTIONS:
        raise ValueError(f"{where}: flops_convention {convention!r} is not one of {', '.join(CONVENTIONS)}")
    trials = content.get("trials", "mean")
    if trials not in TRIALS:
        raise ValueError(f"{where}: trials {trials!r} is not one of {', '.join(TRIALS)}")
    return Row(
        id=content["id"],
        table=table["name"],
        about=table["about"],
        method=content["method"],
        networks=_networks(content, path.parent, where),
        paper=numbers(content["paper"], where),
        tolerance=numbers(content.get("tolerance", {}), where),
        pretraining=_network(content["pretraining"], {}, path.parent, f"{where}, pretraining")
        if "pretraining" in content
        else None,
        merged=content.get("merged", False),
        proposals=_network(content["proposals"], {}, path.parent, f"{where}, proposals")
        if "proposals" in content and "pending" not in content
        else None,
        alternating=_alternating(own, path.parent, where) if "alternating" in own else None,
        pending=content.get("pending", ""),
        flops_size=tuple(size) if size else None,
        flops_convention=convention,
        start=content.get("start", ""),
        measured=measured,
        note=content.get("note", ""),
        trials=trials,
        read_as=read_as,
    )


def _inherited(row: dict, table: dict, ledger: dict) -> dict:
    """A row with the fields of its table and of the ledger that it does not set itself."""
    content = dict(row)
    for outer in (table, ledger):
        decided = any(key in content for key in _WAYS)
        for key in INHERITED_FIELDS:
            if key not in outer or (key in _WAYS and decided):
                continue
            if isinstance(outer[key], dict) and key != "proposals":
                own = content.get(key, {})
                # The row's own values win. They come first, as in the command of a row.
                content[key] = own | outer[key] | own
            else:
                content.setdefault(key, outer[key])
    return content


def _other(content: Any, where: str) -> Other:
    content = checked(content, OTHER_FIELDS, f"{where}, others", needed=tuple(OTHER_FIELDS))
    return Other(content["method"], numbers(content["paper"], f"{where}, {content['method']}"))


def _alternating(own: dict, folder: Path, where: str) -> Alternating:
    where = f"{where}, alternating"
    fields = checked(own["alternating"], ALTERNATING_FIELDS, where, needed=tuple(ALTERNATING_FIELDS))
    return Alternating(**{name: _network(fields[name], {}, folder, f"{where}, {name}") for name in fields})


def _config_names(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*.yaml") if path.name != LEDGER_NAME]


def _networks(content: dict, folder: Path, where: str) -> dict[str, Network]:
    if "pending" in content:
        return {}
    common = content.get("overrides", {})
    if "networks" not in content:
        return {"": _network({"config": content["config"]}, common, folder, where)}
    named = content["networks"].items()
    return {name: _network(fields, common, folder, f"{where}, network {name!r}") for name, fields in named}


def _network(content: Any, common: dict, folder: Path, where: str) -> Network:
    """A network from its fields, with ``common`` overrides below its own."""
    fields = checked(content, NETWORK_FIELDS, where, needed=("config",))
    config = (folder / fields["config"]).resolve()
    if not config.is_file():
        hint = nearest(config.name, _config_names(folder))
        raise ValueError(f"{where}: there is no config {fields['config']}{hint}")
    own = fields.get("overrides", {})
    return Network(config, own | common | own)
