"""Masks to COCO polygons that are rasterised to exactly the same pixels.

Polygons, because INPUT.MASK_FORMAT "polygon" is Detectron2's default and cannot hold run-length masks.
"""

import cv2
import numpy as np

_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))  # (dy, dx): right, down, left, up


def mask_to_polygons(mask: np.ndarray) -> list[list[float]]:
    """Polygons along the pixel borders of ``mask``.

    Corners are whole numbers (pixel (y, x) is the square from (x, y) to (x + 1, y + 1)), so that
    ``pycocotools.mask.frPyObjects`` returns exactly ``mask``. COCO's polygons have no holes: a region with a hole is
    cut along a pixel column through the hole.

    Args:
        mask: (H, W) bool.

    Returns:
        One flat list x1, y1, x2, y2, ... for each polygon; empty for an empty mask.
    """
    polygons = []
    pieces = [np.pad(mask.astype(np.uint8), 1)]
    while pieces:
        count, labels = cv2.connectedComponents(pieces.pop(), connectivity=4)
        for label in range(1, count):
            piece = labels == label
            column = _column_through_a_hole(piece)
            if column is None:
                polygons.append([float(v - 1) for y, x in _outline(piece) for v in (x, y)])
            else:
                left = piece.copy()
                left[:, column:] = False
                pieces += [left.astype(np.uint8), (piece & ~left).astype(np.uint8)]
    return polygons


def _column_through_a_hole(piece: np.ndarray) -> int | None:
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~piece).astype(np.uint8), connectivity=8)
    for label in range(1, len(stats)):
        if label != labels[0, 0]:
            return int(stats[label, cv2.CC_STAT_LEFT] + stats[label, cv2.CC_STAT_WIDTH] // 2)
    return None


def _outline(piece: np.ndarray) -> list[tuple[int, int]]:
    """Corners (y, x) of the outline of a region without holes; the region is on the right of the path.

    Where two of its pixels touch only at a corner, the path follows the current pixel.
    """
    y, x = (int(v) for v in np.unravel_index(piece.argmax(), piece.shape))
    start, heading, corners = (y, x), 0, []
    while True:
        dy, dx = _STEPS[heading]
        y, x = y + dy, x + dx
        # The four pixels around corner (y, x) are those at y - 1, y and x - 1, x; which lie ahead depends on heading.
        right = piece[y - (heading in (2, 3)), x - (heading in (1, 2))]
        left = piece[y - (heading in (0, 3)), x - (heading in (2, 3))]
        if not right:
            heading = (heading + 1) % 4
        elif left:
            heading = (heading - 1) % 4
        else:
            continue
        corners.append((y, x))
        if (y, x) == start:
            return corners
