"""Line charts as SVG text for an HTML page, drawn by matplotlib; they take the page's light or dark colours."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from html import escape

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Line = Sequence[tuple[float, float]]

#: Colours that matplotlib writes -> variables of the page's style sheet; lines first.
_COLORS = {"#0000a1": "--first", "#0000a2": "--second", "#0000a3": "--soft", "#0000a4": "--rule"}
_LINES, (_INK, _GRID) = tuple(_COLORS)[:2], tuple(_COLORS)[2:]


def line_chart(lines: Mapping[str, Line], *, title: str, x_label: str) -> str:
    """An ``<svg>`` with one line for each entry.

    Args:
        lines: name -> points (x, y). The first line has the page's colour ``--first``, the second ``--second``, and so
            on in turns.
        title: read out by screen readers, and shown over the chart.
        x_label: label of the horizontal axis.

    Raises:
        ValueError: no line has a point, or a point is not finite.
    """
    points = [p for line in lines.values() for p in line]
    if not points:
        raise ValueError(f"the chart {title!r} has no points")
    if not all(math.isfinite(v) for p in points for v in p):
        raise ValueError(f"the chart {title!r} has a point that is not finite")
    figure = Figure(figsize=(4.4, 2.6), layout="constrained")
    axes = figure.subplots()
    for number, line in enumerate(lines.values()):
        if line:
            axes.plot(*zip(*line), color=_LINES[number % 2], linewidth=2, gid=f"line-{number}")
    right, top = (max(p[i] for p in points) for i in (0, 1))
    x_ticks, y_ticks = (MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(0, end or 1.0) for end in (right, top))
    axes.set_xticks(x_ticks, [f"{x:g}" for x in x_ticks])
    axes.set_yticks(y_ticks, [f"{y:g}" for y in y_ticks])
    axes.set(xlim=(0, x_ticks[-1]), ylim=(0, y_ticks[-1]))
    axes.set_xlabel(x_label, color=_INK, loc="right")
    axes.grid(axis="y", color=_GRID, linewidth=1)
    axes.tick_params(length=0, pad=6, labelcolor=_INK)
    axes.spines[:].set_visible(False)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _for_page(buffer.getvalue(), title, list(lines))


def _for_page(svg: str, title: str, names: Sequence[str]) -> str:
    """Only what an HTML page needs: no header, no addresses, no style sheet or font, and the page's colours."""
    box = re.search('viewBox="[^"]*"', svg)[0]
    start = f'<svg {box} role="img" aria-label="{escape(title)}">'
    svg = re.sub(r".*?</style>\s*</defs>", lambda _: start, svg, count=1, flags=re.DOTALL)
    svg = re.sub(r" font-family: [^;]*;", "", svg)
    for number, name in enumerate(names):  # browsers show a title when the pointer rests on the line
        svg = svg.replace(f'<g id="line-{number}">', f"<g><title>{escape(name)}</title>")
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # ids would be the same in all charts of a page
    for color, variable in _COLORS.items():
        svg = svg.replace(color, f"var({variable})")
    return svg
