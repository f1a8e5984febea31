"""Line charts as SVG text for an HTML page: they scale, print, and take the page's light or dark colours."""

import math
from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT = 320, 190  # user units; the page decides the size in pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 10, 12, 26

Line = Sequence[tuple[float, float]]


def line_chart(lines: Mapping[str, Line], *, title: str, x_label: str) -> str:
    """An ``<svg>`` with one line for each entry.

    Args:
        lines: name -> points (x, y). The n-th line has the class ``line-n``, to be coloured by the page's style sheet.
        title: read out by screen readers, and shown over the chart.
        x_label: under the axis.

    Raises:
        ValueError: no line has a point, or a point is not finite.
    """
    points = [p for line in lines.values() for p in line]
    if not points:
        raise ValueError(f"the chart {title!r} has no points")
    if not all(math.isfinite(v) for p in points for v in p):
        raise ValueError(f"the chart {title!r} has a point that is not finite")
    x_ticks = _ticks(0, max(x for x, _ in points), most=4)
    y_ticks = _ticks(0, max(y for _, y in points), most=4)
    x_top = max(x_ticks[-1], max(x for x, _ in points))

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (_WIDTH - _LEFT - _RIGHT) * x / x_top
        return round(across, 1), round(_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * y / y_ticks[-1], 1)

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">']
    for y in y_ticks:
        left, height = place(0, y)
        parts.append(f'<path class="grid" d="M{left} {height}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text class="tick" x="{left - 5}" y="{height + 3.5}" text-anchor="end">{y:g}</text>')
    for x in x_ticks:
        across, height = place(x, 0)
        parts.append(f'<text class="tick" x="{across}" y="{height + 14}" text-anchor="middle">{x:g}</text>')
    parts.append(
        f'<text class="tick" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 1}" text-anchor="end">{escape(x_label)}</text>'
    )
    for n, (name, line) in enumerate(lines.items()):
        if line:
            path = "L".join("{} {}".format(*place(x, y)) for x, y in line)
            parts.append(f'<path class="line line-{n}" d="M{path}"><title>{escape(name)}</title></path>')
    return "".join([*parts, "</svg>"])


def _ticks(low: float, high: float, *, most: int) -> list[float]:
    """At most ``most`` + 1 round numbers from ``low`` up to ``high`` or just above."""
    span = (high - low) or 1.0
    power = 10 ** math.floor(math.log10(span / most))
    step = next(power * m for m in (1, 2, 2.5, 5, 10, 20) if math.ceil(span / (power * m) - 1e-9) <= most)
    return [round(low + i * step, 10) for i in range(math.ceil(span / step - 1e-9) + 1)]
