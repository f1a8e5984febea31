"""Segments and displacements drawn on images.

Legend: H x W size of the image, s enlargement. Pictures are (H, W, 3) uint8, RGB.
"""

import cv2
import numpy as np
from detectron2.utils.visualizer import Visualizer

from .color import RGB
from .segments import Segments

#: Colour of pixels that belong to no segment.
NOTHING: RGB = (28, 28, 34)


def enlarge(image: np.ndarray, scale: int, *, smooth: bool = True) -> np.ndarray:
    """(H,W,3) -> (sH,sW,3), with cubic interpolation; without ``smooth`` each pixel becomes a square."""
    size = image.shape[1] * scale, image.shape[0] * scale
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC if smooth else cv2.INTER_NEAREST)


def paint_segments(
    image: np.ndarray, found: Segments, *, scale: int = 3, strength: float = 0.62, labels: bool = False
) -> np.ndarray:
    """The image with each segment tinted in its colour and outlined.

    Args:
        image: picture (H,W,3).
        found: segments of the same H x W. Pixels in none are dark, unless only objects are looked for.
        scale: s; outlines are drawn at the enlarged size, so that they are smooth and thin.
        strength: the strength of the tint, 0 to 1.
        labels: write names and scores; a detector's boxes are drawn in any case.

    Returns:
        Picture (sH,sW,3).

    Raises:
        ValueError: image and segments differ in size.
    """
    if image.shape[:2] != found.labels.shape:
        raise ValueError(f"the image has {image.shape[:2]} pixels, its segments {found.labels.shape}")
    numbers = enlarge_labels(found.labels, scale)
    highest = max(found.segments, default=0)
    colors = np.array([NOTHING] + [found.segments[i].color for i in range(1, highest + 1)], np.float32)
    things = np.array([False] + [found.segments[i].is_thing for i in range(1, highest + 1)])
    base = enlarge(image, scale).astype(np.float32)
    # Objects are tinted more than regions, so that they stand out.
    tint = np.where(things[numbers], strength, strength * 0.72)[..., None].astype(np.float32)
    tint[numbers == 0] = 0.8 if found.extent == "image" else 0.0
    picture = base * (1 - tint) + colors[numbers] * tint
    line = outlines(numbers)[..., None]
    picture = np.clip(picture * (1 - line) + 255 * line, 0, 255).round().astype(np.uint8)
    return _annotate(picture, found, numbers, scale=scale, labels=labels)


def _annotate(picture: np.ndarray, found: Segments, numbers: np.ndarray, *, scale: int, labels: bool) -> np.ndarray:
    """The picture with Detectron2's boxes and labels. Its masks are not used: they fill the holes of objects."""
    boxed = {} if found.extent == "image" else {i: s for i, s in found.segments.items() if s.box is not None}
    if not boxed and not labels:
        return picture
    drawn = Visualizer(picture)
    if labels:
        for number, segment in found.segments.items():
            place = np.argwhere(numbers == number)
            if number not in boxed and len(place):
                drawn.draw_text(segment.label, tuple(np.median(place, axis=0)[::-1]), color=_unit(segment.color))
    drawn.overlay_instances(
        boxes=np.array([segment.box for segment in boxed.values()]).reshape(-1, 4) * scale,
        labels=[segment.label for segment in boxed.values()] if labels else None,
        assigned_colors=[_unit(segment.color) for segment in boxed.values()],
    )
    return drawn.output.get_image()


def _unit(color: RGB) -> tuple[float, ...]:
    return tuple(c / 255 for c in color)


def enlarge_labels(labels: np.ndarray, scale: int) -> np.ndarray:
    """(H,W) -> (sH,sW): each point takes the label with the highest value after a slight blur and linear interpolation.
    This makes slanting outlines smooth and keeps objects that are one pixel thin."""
    if scale == 1:
        return labels
    size = labels.shape[1] * scale, labels.shape[0] * scale
    best, cover = np.zeros(size[::-1], labels.dtype), np.full(size[::-1], -1.0, np.float32)
    for label in np.unique(labels):
        soft = cv2.GaussianBlur((labels == label).astype(np.float32), (3, 3), 0.6)
        covered = cv2.resize(soft, size, interpolation=cv2.INTER_LINEAR)
        wins = covered > cover
        best[wins], cover[wins] = label, covered[wins]
    return best


def outlines(labels: np.ndarray) -> np.ndarray:
    """(H,W) -> (H,W) float32 in [0, 1]: lines of about 1.5 pixels where two labels meet, soft at their sides."""
    edge = np.zeros(labels.shape, np.float32)
    edge[:, 1:] = labels[:, 1:] != labels[:, :-1]
    edge[1:] = np.maximum(edge[1:], labels[1:] != labels[:-1])
    return np.clip(cv2.GaussianBlur(edge, (3, 3), 0.7) * 1.25, 0, 1)


def draw_arrows(
    picture: np.ndarray, displacement: np.ndarray, *, step: int, gain: float = 1.0, color: RGB = (255, 255, 255)
) -> np.ndarray:
    """Arrows on a copy of the picture, from each pixel of a grid to where its displacement points.

    Args:
        picture: the picture (H,W,3).
        displacement: the displacement (2,H,W), (dy, dx) in pixels of the picture.
        step: distance between arrows in pixels.
        gain: arrows are this many times as long as the displacement.
        color: colour of the arrows, which have a dark rim.
    """
    drawn = picture.copy()
    bits = 4  # cv2 takes whole numbers; with 4 fractional bits short arrows keep their direction
    for y in range(step // 2, picture.shape[0], step):
        for x in range(step // 2, picture.shape[1], step):
            dy, dx = displacement[:, y, x] * gain
            length = float(np.hypot(dy, dx))
            start = (x << bits, y << bits)
            if length < 0.75:
                cv2.circle(drawn, start, 1 << bits, color, -1, cv2.LINE_AA, bits)
                continue
            end = (round((x + dx) * 2**bits), round((y + dy) * 2**bits))
            for tone, width in (((0, 0, 0), 3), (color, 1)):
                cv2.arrowedLine(drawn, start, end, tone, width, cv2.LINE_AA, bits, min(0.4, 5 / length))
    return drawn


def frame(picture: np.ndarray, box: tuple[int, int, int, int], *, color: RGB = (255, 255, 255)) -> np.ndarray:
    """A copy with the rectangle (y0, x0, y1, x1), in pixels of the picture, drawn on it."""
    y0, x0, y1, x1 = box
    drawn = picture.copy()
    for tone, width in (((0, 0, 0), 4), (color, 2)):
        cv2.rectangle(drawn, (x0, y0), (x1 - 1, y1 - 1), tone, width, cv2.LINE_AA)
    return drawn


def most_different_window(a: np.ndarray, b: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The window (y0, x0, y1, x1) of ``size`` (H, W) in which two (H,W) maps of classes differ in most pixels.

    If there are several, the first in reading order. Which of the two maps is right plays no part.
    """
    h, w = (min(s, m) for s, m in zip(size, a.shape))
    total = np.pad((a != b).astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    counts = total[h:, w:] - total[:-h, w:] - total[h:, :-w] + total[:-h, :-w]
    y0, x0 = (int(v) for v in np.unravel_index(counts.argmax(), counts.shape))
    return y0, x0, y0 + h, x0 + w
