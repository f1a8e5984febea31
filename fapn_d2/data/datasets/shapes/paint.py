"""Painting a scene: textured stuff, shaded objects with soft shadows, outlines blended by coverage."""

import colorsys

import cv2
import numpy as np

from .noise import fractal
from .scene import Scene, Thing
from .spec import STUFF, THING_COLORS

_LIGHT = np.array([-0.6, -0.8])  # direction towards the light in the image plane (x right, y down)


def paint(rng: np.random.RandomState, scene: Scene) -> np.ndarray:
    """(H, W, 3) uint8 RGB picture of ``scene``."""
    canvas = _paint_stuff(rng, scene.stuff)
    for thing in scene.things:
        canvas *= 1 - 0.45 * _shadow(thing)[..., None]
        box = _window(thing.coverage)
        alpha = thing.coverage[box][..., None]
        canvas[box] = canvas[box] * (1 - alpha) + _paint_thing(rng, thing, box) * alpha
    canvas *= 255 * rng.uniform(0.85, 1.08)
    canvas += rng.normal(0, 2.0, canvas.shape)  # sensor noise
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def _window(coverage: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns that an object covers in part."""
    return tuple(slice(i.min(), i.max() + 1) for i in np.nonzero(coverage))


def _mix(a, b, t: np.ndarray) -> np.ndarray:
    """From colour ``a`` to colour ``b``; ``t`` (H, W) in [0, 1]."""
    return np.asarray(a, np.float64) * (1 - t[..., None]) + np.asarray(b, np.float64) * t[..., None]


def _paint_stuff(rng: np.random.RandomState, stuff: np.ndarray) -> np.ndarray:
    h, w = stuff.shape
    height = np.broadcast_to(np.linspace(0, 1, h)[:, None], (h, w))
    blue = _mix((0.27, 0.52, 0.83), (0.72, 0.85, 0.94), np.clip(1.7 * height, 0, 1))
    clouds = np.clip((fractal(rng, (h, w), cell=(h / 5, w / 3)) - 0.52) * 3.2, 0, 1)
    layers = {
        "sky": _mix(blue, (0.97, 0.97, 0.98), clouds),
        "grass": _grass(rng, (h, w), height),
        "sand": _sand(rng, (h, w)),
    }
    # One sample per pixel gives jagged borders; the three weights are blurred a little, as by a lens.
    weights = [cv2.GaussianBlur((stuff == i).astype(np.float32), (0, 0), 0.6)[..., None] for i in range(len(STUFF))]
    return sum(weight * layers[name] for weight, name in zip(weights, STUFF)) / sum(weights)


def _grass(rng, size, height) -> np.ndarray:
    blades = fractal(rng, size, cell=(7, 2), octaves=2)
    patches = fractal(rng, size, cell=size[0] / 4)
    color = _mix((0.20, 0.42, 0.12), (0.48, 0.66, 0.22), np.clip(0.6 * blades + 0.5 * patches, 0, 1))
    return color * (0.85 + 0.25 * height[..., None])


def _sand(rng, size) -> np.ndarray:
    h, w = size
    bend = 5 * fractal(rng, size, cell=h / 3)
    y, x = np.mgrid[:h, :w]
    ripples = 0.5 + 0.5 * np.sin(y / rng.uniform(1.3, 2.2) + x * rng.uniform(-0.2, 0.2) + 2.4 * bend)
    grain = rng.rand(h, w)
    return _mix((0.72, 0.60, 0.40), (0.94, 0.85, 0.64), np.clip(0.45 * ripples + 0.25 * grain + 0.06 * bend, 0, 1))


def _shadow(thing: Thing) -> np.ndarray:
    """(H, W) in [0, 1]: the object's coverage moved away from the light and blurred, both growing with its size."""
    reach = 1.0 + 0.09 * thing.radius
    shift = np.float32([[1, 0, -_LIGHT[0] * reach], [0, 1, -_LIGHT[1] * reach]])
    moved = cv2.warpAffine(thing.coverage, shift, thing.coverage.shape[::-1])
    return cv2.GaussianBlur(moved, (0, 0), 0.8 + 0.05 * thing.radius)


def _paint_thing(rng: np.random.RandomState, thing: Thing, box: tuple[slice, slice]) -> np.ndarray:
    base, other = _tones(rng, thing.kind)
    # Coordinates that rotate and scale with the object, so that its texture is fixed to it.
    y, x = np.mgrid[box] + 0.5
    x, y = (x - thing.center[0]) / thing.radius, (y - thing.center[1]) / thing.radius
    c, s = np.cos(thing.angle), np.sin(thing.angle)
    color = _mix(base, other, _pattern(rng, c * x + s * y, c * y - s * x, thing.radius))
    light = np.clip(0.95 + 0.22 * (_LIGHT[0] * x + _LIGHT[1] * y), 0.6, 1.25)
    # Blurred coverage falls from 1 inside to 1/2 at the outline: the rim becomes darker without steps.
    inside = cv2.GaussianBlur(thing.coverage, (0, 0), 1.0)[box]
    rim = 0.68 + 0.32 * np.clip(2.5 * (inside - 0.5), 0, 1)
    return np.clip(color * (light * rim)[..., None], 0, 1)


def _tones(rng: np.random.RandomState, kind: int) -> tuple:
    """Two tones of one hue. The hue is near that of the class, or any hue for one object in eight: colour helps in a
    short training, but only the outline determines the class."""
    hue, saturation, _ = colorsys.rgb_to_hsv(*(v / 255 for v in THING_COLORS[kind]))
    hue = rng.rand() if rng.rand() < 0.125 else hue + rng.uniform(-0.05, 0.05)
    saturation *= rng.uniform(0.75, 1.0)
    value = rng.uniform(0.72, 0.98)
    pale = colorsys.hsv_to_rgb(hue % 1, 0.45 * saturation, 0.6 * value + 0.4)
    return colorsys.hsv_to_rgb(hue % 1, saturation, value), pale


def _pattern(rng: np.random.RandomState, u: np.ndarray, v: np.ndarray, radius: float) -> np.ndarray:
    """(H, W) in [0, 1]: plain, stripes, checks or dots, with a period of at least about three pixels."""
    period = max(rng.uniform(0.35, 0.7), 5 / radius)
    choice = rng.randint(4)
    su, sv = np.sin(2 * np.pi * u / period), np.sin(2 * np.pi * v / period)
    waves = (np.zeros_like(u) - 1, su, su * sv * 2, (su + sv) * 1.5 - 1)[choice]
    return np.clip(0.5 + 1.2 * waves, 0, 1)
