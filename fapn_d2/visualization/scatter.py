"""A scatter plot whose labels do not cover each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, StrMethodFormatter

_DPI = 160
#: Pixels around a marker's centre that no label may cover: a little more than half of the marker.
_MARKER = 11.0
#: Ticks of logarithmic axes.
_ROUND = tuple(a * 10**b for b in range(-1, 5) for a in (1, 2, 3, 5, 7))


@dataclass(frozen=True)
class Series:
    """Points with the same marker and colour."""

    name: str
    points: Sequence[tuple[float, float, str]]  #: x, y, label
    color: str
    marker: str = "o"
    filled: bool = True


def draw_scatter(
    series: Sequence[Series], path: str | Path, *, title: str, note: str, x_label: str, y_label: str
) -> None:
    """Write a picture (PNG, SVG or PDF by its name): x logarithmic, a label at each point, the legend below.

    Args:
        series: points with their labels; a series without points is left out.
        path: path of the file.
        title, note: texts above the chart, the note in smaller letters.
        x_label, y_label: labels of the axes.

    Raises:
        ValueError: there is no point.
    """
    series = [s for s in series if s.points]
    if not series:
        raise ValueError(f"the chart {title!r} has no points")
    figure = Figure(figsize=(9.0, 6.6), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    for s in series:
        x, y, _ = zip(*s.points)
        face = s.color if s.filled else "white"
        axes.scatter(
            x, y, s=56, marker=s.marker, facecolor=face, edgecolor=s.color, linewidth=1.6, label=s.name, zorder=3
        )
    _style(axes, [p for s in series for p in s.points])
    axes.set_title(f"{title}\n", fontsize=13, loc="left")
    axes.text(0, 1.02, fill(note, 120), transform=axes.transAxes, fontsize=9, color="#555555", va="bottom")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    figure.legend(loc="outside lower center", ncols=len(series), frameon=False, fontsize=10)
    figure.draw_without_rendering()  # the layout is known only now
    figure.set_layout_engine("none")
    _annotate(figure, axes, series)
    figure.savefig(path, dpi="figure")


def place_labels(
    points: np.ndarray, sizes: np.ndarray, bounds: tuple[float, float, float, float], *, marker: float = _MARKER
) -> np.ndarray:
    """Places for labels that cover no point, no other label and no edge, each as near to its point as possible.

    Greedy: points with the most neighbours choose first. Without a free place, a label takes the one that covers least.

    Args:
        points: (n,2) centres of the markers, in pixels.
        sizes: (n,2) width and height of the labels.
        bounds: (left, bottom, right, top) of the chart.
        marker: half of a marker's side.

    Returns:
        (n,2) lower left corners.
    """
    boxes = np.concatenate([points - marker, points + marker], axis=1)
    taken = list(boxes)
    crowd = (np.abs(points[:, None] - points[None]) < sizes.max(axis=0) * (1, 3)).all(axis=2).sum(axis=1)
    corners = np.zeros_like(points)
    for i in np.argsort(-crowd, kind="stable"):
        candidates = _candidates(points[i], sizes[i], marker)
        cost = [_cost(np.concatenate([c, c + sizes[i]]), np.array(taken), bounds) for c in candidates]
        corners[i] = candidates[int(np.argmin(cost))]  # the first of equals is the nearest
        taken.append(np.concatenate([corners[i], corners[i] + sizes[i]]))
    return corners


def _candidates(point: np.ndarray, size: np.ndarray, marker: float) -> np.ndarray:
    """(k,2) lower left corners around a point, nearest first; at each distance right, left, above, below, corners."""
    w, h = size
    found = []
    for gap in (marker + 3, marker + 14, marker + 28, marker + 50, marker + 80):
        left, middle, right = -w - gap, -w / 2, gap
        below, level, above = -h - gap, -h / 2, gap
        sides = [(right, level), (left, level), (middle, above), (middle, below)]
        found += [*sides, (right, above), (left, above), (right, below), (left, below)]
    return point + np.array(found)


def _cost(box: np.ndarray, taken: np.ndarray, bounds: tuple[float, float, float, float]) -> float:
    """Area of ``box`` that is covered or out of bounds, each with a margin of three pixels."""
    x0, y0, x1, y1 = box + (-3, -3, 3, 3)
    wide = np.clip(np.minimum(taken[:, 2], x1) - np.maximum(taken[:, 0], x0), 0, None)
    high = np.clip(np.minimum(taken[:, 3], y1) - np.maximum(taken[:, 1], y0), 0, None)
    inside = max(0.0, min(x1, bounds[2]) - max(x0, bounds[0])) * max(0.0, min(y1, bounds[3]) - max(y0, bounds[1]))
    return float((wide * high).sum() + (x1 - x0) * (y1 - y0) - inside)


def _style(axes, points: Sequence[tuple[float, float, str]]) -> None:
    x, y = (np.array([p[i] for p in points], float) for i in (0, 1))
    axes.set_xscale("log")
    axes.set_xlim(x.min() / 1.35, x.max() * 1.5)
    room = 0.09 * max(float(np.ptp(y)), 1.0)
    axes.set_ylim(y.min() - room, y.max() + room)
    low, high = axes.get_xlim()
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks([t for t in _ROUND if low <= t <= high])
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.grid(color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _annotate(figure: Figure, axes, series: Sequence[Series]) -> None:
    points = [(p, s) for s in series for p in s.points]
    texts = [
        axes.annotate(
            label, (x, y), (0, 0), textcoords="figure points", fontsize=9, color=s.color, annotation_clip=False
        )
        for (x, y, label), s in points
    ]
    renderer = figure._get_renderer()
    sizes = np.array([(b.width, b.height) for b in (t.get_window_extent(renderer) for t in texts)])
    centres = axes.transData.transform([(x, y) for (x, y, _), _ in points])
    corners = place_labels(centres, sizes, tuple(axes.bbox.extents))
    for text, corner, size, centre in zip(texts, corners, sizes, centres):
        text.set_position(tuple(corner * 72 / _DPI))  # in points, so that pictures of any kind are alike
        nearest = np.clip(centre, corner, corner + size)
        if np.hypot(*(nearest - centre)) > 2 * _MARKER:  # far from its point: a thin line shows whose it is
            ends = axes.transData.inverted().transform([centre, nearest])
            axes.plot(*ends.T, color="#999999", linewidth=0.7, zorder=2)
