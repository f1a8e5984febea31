"""The numbers of a ledger's row: the paper's numbers, and those in the records of runs."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ..config.hashing import config_hash, training_hash
from .jobs import alternating_hash, merged_hash, proposals_hash
from .ledger import Row
from .metrics import COUNTED, ELSEWHERE, OF_ANY_WEIGHTS, find
from .records import MERGED, PRETRAINING, Record


@dataclass(frozen=True)
class Number:
    """One printed number and ours."""

    printed: float
    ours: tuple[float, ...]  #: one per seed; none if nothing is measured
    start: str = ""  #: what our training starts from, if the paper's starts from better weights; else ""
    trials: str = "mean"  #: what the paper prints of several trials: their mean or their median

    @property
    def text(self) -> str:
        """``77.4`` or ``77.4 → 77.12 ± 0.21 (-0.28)``: printed, mean of ours, standard deviation, difference.

        If the paper prints medians, ``77.4 → 77.10, the median of 5 (-0.30)``. At the end ``, from random weights`` if
        the paper's training starts from better weights.
        """
        if not self.ours:
            return str(self.printed)
        center, spread = statistics.fmean(self.ours), ""
        if len(self.ours) > 1 and self.trials == "median":
            center, spread = statistics.median(self.ours), f", the median of {len(self.ours)}"
        elif len(self.ours) > 1:
            spread = f" ± {statistics.stdev(self.ours):.2f}"
        difference = round(center - self.printed, 2) + 0.0  # no -0.00
        start = f", from {self.start}" if self.start else ""
        return f"{self.printed} → {center:.2f}{spread} ({difference:+.2f}){start}"


def numbers_of(row: Row, records: Sequence[Record]) -> dict[str, Number]:
    """Every number that the paper prints for a row, with ours.

    Args:
        row: its own ``measured`` counts, too.
        records: the records of this row's networks, see :func:`records_of`.
    """
    parameters = row.measured.get("inference_params") or row.measured.get("params", 0)
    sizes = {"params_M": parameters / 1e6, **{name: row.measured.get(name, 0) for name in COUNTED}}
    numbers = {}
    for metric, printed in row.paper.items():
        ours = [sizes[metric]] if sizes.get(metric) else []
        meant = row.read_as.get(metric, metric)
        ours += [run["metrics"][metric] for run in row.measured.get("runs", []) if metric in run["metrics"]]
        if metric not in ELSEWHERE:
            scored = [r for r in records if _is_of(meant, r.network, row)]
            ours += [value for r in scored if (value := find(r.results, meant, r.network)) is not None]
        numbers[metric] = Number(printed, tuple(ours), "" if metric in OF_ANY_WEIGHTS else row.start, row.trials)
    return numbers


def _is_of(metric: str, network: str, row: Row) -> bool:
    """Whether ``metric`` may be of this network: mIoU_coco is of the network "coco" alone, AP of any."""
    named = [name for name in row.networks if name and metric.endswith(f"_{name}")]
    return not named or network in named


def records_of(row: Row, records: Sequence[Record]) -> list[Record]:
    """The runs of this row's networks as the ledger describes them, for whichever row they were started."""
    if not records:
        return []
    before = training_hash(row.pretraining.load()) if row.pretraining else ""
    if row.proposals:
        before = proposals_hash(row.proposals)
    if row.alternating:
        before = alternating_hash(row.alternating)
    if row.merged:
        configs = {name: network.load() for name, network in row.networks.items()}
        hashes = {merged_hash(configs["instances"], configs["semantic"]): MERGED}
    else:
        hashes = {config_hash(network.load(), pretraining=before): name for name, network in row.networks.items()}
    return [r for r in records if hashes.get(r.config_hash) == r.network]


def _pretraining_of(row: Row, records: Sequence[Record]) -> list[Record]:
    if not row.pretraining or not records:
        return []
    expected = config_hash(row.pretraining.load())
    return [r for r in records if (r.network, r.config_hash) == (PRETRAINING, expected)]
