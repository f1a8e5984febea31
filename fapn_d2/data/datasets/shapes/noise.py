"""Smooth random fields for the borders and textures of "shapes"."""

import cv2
import numpy as np


def fractal(
    rng: np.random.RandomState,
    size: tuple[int, int],
    *,
    cell: float | tuple[float, float],
    octaves: int = 4,
    gain: float = 0.5,
) -> np.ndarray:
    """Sum of smooth noise whose cell size is halved in each octave, scaled to [0, 1].

    Args:
        rng: source of randomness.
        size: (H, W) of the field.
        cell: pixels between two random values of the coarsest octave; (along y, along x) for grain with a direction.
        octaves: number of cell sizes; sizes below one pixel are left out.
        gain: weight of an octave relative to the next coarser one.

    Returns:
        (H, W) float32.
    """
    h, w = size
    cell_y, cell_x = cell if isinstance(cell, tuple) else (cell, cell)
    total = np.zeros(size, np.float32)
    for octave in range(octaves):
        step_y, step_x = max(cell_y / 2**octave, 1), max(cell_x / 2**octave, 1)
        if octave and step_y == step_x == 1:
            break
        grid = rng.rand(int(h / step_y) + 3, int(w / step_x) + 3).astype(np.float32)
        # Sample positions start at the second cell, so that the bicubic kernel stays inside of the grid.
        xs = 1 + np.arange(w, dtype=np.float32) / np.float32(step_x)
        ys = 1 + np.arange(h, dtype=np.float32) / np.float32(step_y)
        field = cv2.remap(grid, *np.meshgrid(xs, ys), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        total += np.float32(gain**octave) * field
    total -= total.min()
    return total / max(float(total.max()), 1e-6)
