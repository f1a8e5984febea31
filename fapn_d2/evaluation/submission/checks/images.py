"""PNGs in an archive: their format and size, independent of the meaning of their values."""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .faults import Fault

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Colour type in a PNG's header -> what it is.
KINDS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}


@dataclass(frozen=True)
class Header:
    """The header of a PNG.

    Attributes:
        size: the (H, W) of the image.
        bits: the number of bits per channel or index.
        kind: one of :data:`KINDS`.
    """

    size: tuple[int, int]
    bits: int
    kind: str


def header(content: bytes) -> Header | None:
    """The header of a PNG, or None if the content is not a PNG. Pillow hides the number of bits."""
    if content[:8] != _SIGNATURE or len(content) < 26:
        return None
    width, height, bits, kind = struct.unpack(">IIBB", content[16:26])
    return Header((height, width), bits, KINDS.get(kind, f"colour type {kind}"))


def pixels(content: bytes) -> np.ndarray | None:
    """The stored values, which are indices in a palette image; None if the file is damaged."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image)
    except (OSError, ValueError, SyntaxError):
        return None


def check_png(content: bytes, name: str) -> Iterator[Fault]:
    if header(content) is None or pixels(content) is None:
        yield Fault("a file is not a PNG that can be read", "write it again", name)


def check_size(found: tuple[int, int], expected: tuple[int, int] | None, name: str) -> Iterator[Fault]:
    """Outputs of half the size, a common mistake, have a message of their own."""
    if expected is None or found == tuple(expected):
        return
    where = f"{name}: {found}, image {tuple(expected)} (H, W)"
    half = tuple((side + 1) // 2 for side in expected)
    if found == half or found == tuple(side // 2 for side in expected):
        yield Fault(
            "a prediction has half the size of its image", "resize to the image's size before the best class", where
        )
    else:
        yield Fault("a prediction has another size than its image", "predict at the image's own size", where)
