"""COCO's compressed run lengths, decoded with checks. pycocotools would read beyond the end of faulty ones.

Each run is written in base 32, the lowest five bits first. A sixth bit means "more follows". From the fourth run on,
the number is the difference to the run before the last one.
"""

import numpy as np


def decode_run_lengths(counts: str | bytes) -> np.ndarray:
    """The lengths of the runs, int64; the first one is of pixels outside of the mask.

    Raises:
        ValueError: the text is not compressed run lengths.
    """
    text = np.frombuffer(counts.encode() if isinstance(counts, str) else counts, np.uint8).astype(np.int64) - 48
    if text.size == 0:
        raise ValueError("there are none")
    if text.min() < 0 or text.max() > 63 or text[-1] & 32:
        raise ValueError("they hold characters that are not run lengths, or are cut short")
    ends = np.flatnonzero((text & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    digit = np.arange(text.size) - np.repeat(starts, ends - starts + 1)
    if digit.max() > 6:
        raise ValueError("a run is longer than any image")
    values = np.add.reduceat((text & 31) << 5 * digit, starts)
    values -= np.where(text[ends] & 16, 1 << 5 * (digit[ends] + 1), 0)
    values[1::2], values[2::2] = np.cumsum(values[1::2]), np.cumsum(values[2::2])
    return values


def run_length_problem(code: dict) -> str | None:
    """The fault of a mask {"size": [H, W], "counts": compressed run lengths}, or None."""
    try:
        values = decode_run_lengths(code["counts"])
    except ValueError as error:
        return str(error)
    pixels = int(np.prod(code["size"]))
    if values.min() < 0 or values.sum() != pixels:
        return f"they cover {values.sum()} pixels, the image has {pixels}"
    return None
