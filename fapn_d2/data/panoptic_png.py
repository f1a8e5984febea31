"""COCO's panoptic PNGs: a segment's id is stored as a colour, R + 256 G + 65536 B."""

import os

import cv2
import numpy as np
from PIL import Image


def read_segment_ids(path: str) -> np.ndarray:
    """(H, W) uint32 ids of a panoptic PNG: R + 256 G + 65536 B.

    Raises:
        FileNotFoundError: the file is absent.
        ValueError: it is not an image.
    """
    image = cv2.imread(path, cv2.IMREAD_COLOR)
    if image is None:
        if not os.path.isfile(path):
            raise FileNotFoundError(f"panoptic ground truth {path} is absent")
        raise ValueError(f"panoptic ground truth {path} is not an image that can be read")
    # four bytes R, G, B, 255 are one little-endian number
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGBA).view("<u4")[..., 0] & 0xFFFFFF


def write_segment_ids(path: str, ids: np.ndarray) -> None:
    """The reverse of :func:`read_segment_ids`."""
    Image.fromarray(id2rgb(ids)).save(path)


def rgb2id(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) int64 segment ids, as COCO's panoptic PNGs store them: R + 256 G + 256^2 B."""
    return rgb.astype(np.int64) @ np.array([1, 256, 256**2])


def id2rgb(ids: np.ndarray) -> np.ndarray:
    """The reverse of :func:`rgb2id`: (H, W) whole numbers -> (H, W, 3) uint8."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 256**2], -1).astype(np.uint8)
