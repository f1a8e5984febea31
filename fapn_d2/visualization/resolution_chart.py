"""Two line charts side by side: multiply-adds and activations by the scale of a network's output."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

_DPI = 160
#: Marker and colour of the curves, in the order in which they come.
_LOOKS = (("o", "#1f63c4"), ("s", "#b3423a"), ("^", "#3a7d44"), ("D", "#7a4fa3"))
_LABELS = ("multiply-adds ($\\times 10^{12}$)", "activations ($\\times 10^{9}$)")


def draw_resolution_costs(points: Sequence[tuple[str, int, float, float]], path: str | Path) -> None:
    """Write a picture in the manner of Panoptic FPN's Figure 4 (PNG, SVG or PDF by its name).

    Args:
        points: (name of the curve, stride of the output, multiply-adds / 10^12, activations / 10^9).
        path: path of the file.

    Raises:
        ValueError: there is no point.
    """
    if not points:
        raise ValueError("the chart has no points")
    strides = sorted({stride for _, stride, _, _ in points}, reverse=True)
    figure = Figure(figsize=(8.4, 3.6), dpi=_DPI, layout="constrained")
    for number, (axes, label) in enumerate(zip(figure.subplots(1, 2), _LABELS)):
        for i, name in enumerate(dict.fromkeys(point[0] for point in points)):
            marker, color = _LOOKS[i % len(_LOOKS)]
            curve = [(strides.index(p[1]), p[2 + number]) for p in points if p[0] == name]
            axes.plot(*zip(*curve), marker=marker, color=color, linewidth=1.8, label=name)
        axes.set_xticks(range(len(strides)), [f"1/{stride}" for stride in strides])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("scale of the output")
        axes.set_ylabel(label)
        axes.grid(axis="y", color="#dddddd")
        axes.spines[["top", "right"]].set_visible(False)
        if number == 0:
            axes.legend(frameon=False, loc="upper left")
    figure.savefig(path, dpi="figure")
