"""Composition of one image of "shapes": the stuff of each region, and which object is where and in front of which.

Letters: H, W size of the image in pixels; points are (x, y) in pixels, pixel centres at .5.
"""

from dataclasses import dataclass, field

import numpy as np

from .noise import fractal
from .spec import STUFF, THINGS

_SUBSAMPLES = 4  # per pixel and axis, for the coverage at outlines
_MIN_AREA = 14  # visible pixels; no detector could find a smaller object
_MIN_VISIBLE = 0.3  # least fraction of an object that is not hidden by others
_TRIES = 12  # number of places that are tried for one object

#: (fraction of the objects, least and greatest radius as a fraction of the shorter image side)
_SIZES = ((0.25, 0.035, 0.06), (0.45, 0.07, 0.13), (0.3, 0.15, 0.25))


@dataclass
class Thing:
    """One object: its class (index into ``THINGS``), pose, and how much of each pixel it covers."""

    kind: int
    center: tuple[float, float]
    radius: float
    angle: float  # radians
    thickness: float  # of rings (fraction of the radius) and sticks (pixels)
    coverage: np.ndarray = field(repr=False)  # (H, W) float32 in [0, 1], including hidden pixels

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool: pixels that are covered by half or more."""
        return self.coverage >= 0.5


@dataclass
class Scene:
    """``stuff``: (H, W) uint8, index into ``STUFF``; ``things``: back to front; ``owner``: (H, W) int16, index of the
    visible thing at a pixel or -1."""

    stuff: np.ndarray
    things: list[Thing]
    owner: np.ndarray


def compose(rng: np.random.RandomState, size: tuple[int, int]) -> Scene:
    """Draw one scene of ``size`` (H, W) from ``rng``."""
    stuff = _regions(rng, size)
    things: list[Thing] = []
    owner = np.full(size, -1, np.int16)
    for _ in range(rng.randint(5, 12)):
        kind = rng.randint(len(THINGS))
        for _ in range(_TRIES):
            thing = _propose(rng, size, kind, things)
            after = np.where(thing.mask, np.int16(len(things)), owner)
            if all(_still_seen(t, after == i) for i, t in enumerate(things + [thing])):
                things.append(thing)
                owner = after
                break
    return Scene(stuff, things, owner)


def _still_seen(thing: Thing, visible: np.ndarray) -> bool:
    return visible.sum() >= max(_MIN_AREA, _MIN_VISIBLE * thing.mask.sum())


def _regions(rng: np.random.RandomState, size: tuple[int, int]) -> np.ndarray:
    """Sky above an uneven horizon, and below it grass and sand with an irregular border; some images have only two."""
    h, w = size
    sky, grass, sand = range(len(STUFF))
    hills = fractal(rng, (1, w), cell=w / 3)[0] - 0.5
    horizon = h * (rng.uniform(0.22, 0.5) + 0.28 * hills)
    if rng.rand() < 0.12:
        horizon -= h  # a view from above: no sky
    y = np.arange(h)[:, None] + 0.5
    tilt = rng.uniform(-1, 1) * (np.arange(w)[None] / w - 0.5) + rng.uniform(0.2, 0.9) * (y / h - 0.7)
    bias = rng.uniform(-0.15, 0.15) + rng.choice((-2, 0, 2), p=(0.08, 0.84, 0.08))  # +-2: only grass or only sand
    dry = fractal(rng, size, cell=min(h, w) / 3) - 0.5 + tilt + bias > 0
    ground = np.where(dry, sand, grass)
    return np.where(y < horizon[None], sky, ground).astype(np.uint8)


def _propose(rng: np.random.RandomState, size: tuple[int, int], kind: int, others: list[Thing]) -> Thing:
    h, w = size
    _, low, high = _SIZES[rng.choice(len(_SIZES), p=[s[0] for s in _SIZES])]
    radius = rng.uniform(low, high) * min(h, w)
    center = rng.uniform(0.04, 0.96) * w, rng.uniform(0.04, 0.96) * h
    if others and rng.rand() < 0.5:  # near another object, so that outlines cross and objects hide each other
        other = others[rng.randint(len(others))]
        reach = other.radius + radius
        x, y = (c + reach * rng.uniform(-0.8, 0.8) for c in other.center)
        if 0 < x < w and 0 < y < h:
            center = x, y
    angle = rng.uniform(0, 2 * np.pi)
    thickness = 0.0
    if THINGS[kind] == "ring":
        radius = max(radius, 6.0)
        thickness = max(rng.uniform(0.16, 0.42), 2.2 / radius)
    elif THINGS[kind] == "stick":
        radius = max(1.5 * radius, 9.0)
        thickness = rng.uniform(2.2, 3.0 + 0.08 * radius)
    return Thing(kind, center, radius, angle, thickness, _coverage(size, kind, center, radius, angle, thickness))


def _coverage(size, kind, center, radius, angle, thickness) -> np.ndarray:
    """Fraction of each pixel inside of the outline, by counting sub-samples in the window around the object."""
    h, w = size
    x0, y0 = (max(int(c - radius - 1), 0) for c in center)
    x1, y1 = min(int(center[0] + radius + 2), w), min(int(center[1] + radius + 2), h)
    out = np.zeros(size, np.float32)
    if x0 >= x1 or y0 >= y1:
        return out
    s = _SUBSAMPLES
    px = x0 + (np.arange((x1 - x0) * s) + 0.5) / s - center[0]
    py = y0 + (np.arange((y1 - y0) * s) + 0.5) / s - center[1]
    inside = _inside(kind, *np.meshgrid(px, py), radius, angle, thickness)
    out[y0:y1, x0:x1] = inside.reshape(y1 - y0, s, x1 - x0, s).mean((1, 3))
    return out


def _inside(kind: int, x, y, radius, angle, thickness) -> np.ndarray:
    name = THINGS[kind]
    if name in ("disc", "ring"):
        r2 = x * x + y * y
        inside = r2 <= radius**2
        return inside if name == "disc" else inside & (r2 >= ((1 - thickness) * radius) ** 2)
    if name == "stick":
        half = thickness / (2 * radius)
        corners = np.array([(-1, -half), (1, -half), (1, half), (-1, half)])
    elif name == "star":
        corners = _spokes(10) * np.tile([1.0, 0.45], 5)[:, None]
    else:
        corners = _spokes({"triangle": 3, "square": 4}[name])
    c, s = np.cos(angle), np.sin(angle)
    return _in_polygon(x, y, radius * corners @ np.array([[c, s], [-s, c]]))


def _spokes(n: int) -> np.ndarray:
    a = 2 * np.pi * np.arange(n) / n
    return np.stack([np.cos(a), np.sin(a)], 1)


def _in_polygon(x: np.ndarray, y: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Even-odd rule: count the edges that a ray towards +x crosses."""
    inside = np.zeros(x.shape, bool)
    for (xa, ya), (xb, yb) in zip(corners, np.roll(corners, -1, 0)):
        if ya == yb:
            continue
        crosses = (ya > y) != (yb > y)
        inside ^= crosses & (x < xa + (y - ya) * (xb - xa) / (yb - ya))
    return inside
