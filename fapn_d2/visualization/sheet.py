"""Pictures with captions, and several of them in one picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

_INK, _PAPER = (40, 42, 50), (255, 255, 255)


@dataclass(frozen=True)
class Picture:
    """A picture (H,W,3) uint8 RGB with its caption."""

    pixels: np.ndarray
    caption: str


def sheet(rows: Sequence[Sequence[Picture]], *, width: int = 420, gap: int = 14) -> np.ndarray:
    """Rows of pictures on white, each with its caption below it. Captions that are too long have smaller letters.

    Args:
        rows: the rows of pictures, of any lengths; shorter rows end with white.
        width: width of each picture in pixels; the aspect ratio is kept.
        gap: pixels between pictures.

    Returns:
        Picture (H,W,3) uint8.

    Raises:
        ValueError: there is no picture.
    """
    if not any(rows):
        raise ValueError("a sheet needs at least one picture")
    letters = _font(max(12, width // 24))
    line = round(letters.size * 1.7)
    heights = [max(round(p.pixels.shape[0] * width / p.pixels.shape[1]) for p in row) + line for row in rows]
    columns = max(len(row) for row in rows)
    canvas = Image.new("RGB", (columns * (width + gap) + gap, sum(heights) + gap * (len(rows) + 1)), _PAPER)
    pen = ImageDraw.Draw(canvas)
    y = gap
    for row, height in zip(rows, heights):
        for column, picture in enumerate(row):
            x = gap + column * (width + gap)
            size = width, round(picture.pixels.shape[0] * width / picture.pixels.shape[1])
            canvas.paste(Image.fromarray(picture.pixels).resize(size, Image.Resampling.LANCZOS), (x, y))
            too_long = max(1.0, letters.getlength(picture.caption) / width)
            pen.text((x, y + size[1] + 3), picture.caption, fill=_INK, font=_font(int(letters.size / too_long)))
        y += height + gap
    return np.asarray(canvas)


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # This font always exists: it is part of matplotlib.
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)
