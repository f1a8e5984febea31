"""AugFPN's Figure 4: the levels whose features Soft RoI Selection takes, grouped by the level that FPN would choose.

Legend: R regions, L pyramid levels.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.utils.logger import log_every_n_seconds
from matplotlib.figure import Figure
from tabulate import tabulate
from torch import Tensor, nn

from ..heads.soft_roi_selection import SoftRoISelection
from ..layers.spatial_fusion import WeightedFusion


@dataclass(frozen=True)
class SelectionRatios:
    """Mean weights; rows are the levels that FPN's rule assigns regions to, finest first."""

    levels: tuple[str, ...]  #: names, as MODEL.ROI_HEADS.IN_FEATURES has them
    regions: Tensor  #: (L,) number of regions
    weights: Tensor  #: (L,L) mean weight of each level's features; nan in rows without regions

    def table(self) -> str:
        """As text, with one line for each row."""
        rows = [
            (name, count, *row) for name, count, row in zip(self.levels, self.regions.tolist(), self.weights.tolist())
        ]
        return tabulate(rows, ("assigned to", "regions", *self.levels), tablefmt="plain", floatfmt=".4f")


class _Sums:
    """Sums of weights and numbers of regions by assigned level, over all calls of the pooler."""

    def __init__(self, pooler: SoftRoISelection):
        count = len(pooler.level_poolers)
        self.regions = torch.zeros(count, dtype=torch.long)
        self.weights = torch.zeros(count, count, dtype=torch.float64)
        self._assigned = torch.zeros(0, dtype=torch.long)

    def assign(self, pooler: SoftRoISelection, args: tuple) -> None:
        self._assigned = pooler.assigned_levels(args[1]).cpu()

    def add(self, fusion: nn.Module, args: tuple, output: Tensor) -> None:
        # ASF weighs positions, (R,L,o,o), and ACF channels, (R,L,C): either way one number a region and level.
        weights = fusion.weights(args[0]).flatten(2).mean(dim=2).double().cpu()
        self.weights.index_add_(0, self._assigned, weights)
        self.regions += self._assigned.bincount(minlength=len(self.regions))


@contextmanager
def record_selection(model: nn.Module) -> Iterator[_Sums]:
    """Observe the box pooler of a two-stage detector within the context; its outputs do not change.

    Raises:
        ValueError: the detector has no Soft RoI Selection for boxes, or its fusion has no weights ("sum", "max").
    """
    heads = next((m for m in model.modules() if isinstance(m, StandardROIHeads)), None)
    pooler = None if heads is None else heads.box_pooler
    if not isinstance(pooler, SoftRoISelection) or not isinstance(pooler.fusion, WeightedFusion):
        raise ValueError(
            "there are no weights to measure: the detector needs MODEL.ROI_HEADS.NAME AugFPNROIHeads and "
            "MODEL.SOFT_ROI_SELECTION.FUSION asf or acf"
        )
    sums = _Sums(pooler)
    hooks = [pooler.register_forward_pre_hook(sums.assign), pooler.fusion.register_forward_hook(sums.add)]
    try:
        yield sums
    finally:
        for hook in hooks:
            hook.remove()


def measure_selection(model: nn.Module, batches: Iterable[list[dict]], *, images: int = 0) -> SelectionRatios:
    """Run a trained detector and average its weights as in the paper.

    For each proposal of the RPN, the mean over positions of each level's weight map; then the mean over the proposals
    that FPN's rule would assign to one level. Weights are gates between 0 and 1 of each level on its own and are not
    normalised, so a row need not add up to 1.

    Args:
        model: the detector; it is in evaluation mode afterwards.
        batches: batches of a test loader.
        images: the number of batches to use; 0 for all.

    Raises:
        ValueError: see :func:`record_selection`.
    """
    model.eval()
    with torch.no_grad(), record_selection(model) as sums:
        for done, batch in enumerate(islice(batches, images or None), 1):
            model(batch)
            log_every_n_seconds(20, f"Soft RoI Selection measured on {done} images", n=10, name=__name__)
    return SelectionRatios(
        levels=tuple(model.roi_heads.box_in_features),
        regions=sums.regions,
        weights=sums.weights / sums.regions[:, None],
    )


def draw_selection(ratios: SelectionRatios, path: str | Path) -> None:
    """Write a picture (PNG, SVG or PDF by its name) with one bar chart for each level regions are assigned to."""
    figure = Figure(figsize=(2.6 * len(ratios.levels), 2.9), layout="constrained")
    top = max(0.1, float(ratios.weights.nan_to_num().max()))
    for axes, name, count, row in zip(
        figure.subplots(1, len(ratios.levels), sharey=True, squeeze=False)[0],
        ratios.levels,
        ratios.regions.tolist(),
        ratios.weights.nan_to_num().tolist(),
    ):
        bars = axes.bar([level.upper() for level in ratios.levels], row, color="#4c78a8", width=0.65)
        if count:
            axes.bar_label(bars, fmt="%.2f", fontsize=8, padding=2)
        axes.set_title(f"assigned to {name.upper()}\n{count:,} regions", fontsize=9)
        axes.set_ylim(0, 1.15 * top)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    figure.axes[0].set_ylabel("mean weight", fontsize=9)
    figure.savefig(path, dpi=150)
