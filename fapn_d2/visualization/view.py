"""One forward pass on one image: the input, the prediction and the alignments of the network."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.data.detection_utils import convert_image_to_rgb
from torch import nn

from .alignment import AlignmentPictures, draw_alignment
from .recording import Alignment, recording
from .segments import Segments, from_prediction
from .sheet import Picture


@dataclass(frozen=True)
class View:
    """The result of `look`."""

    seen: np.ndarray  #: (H,W,3) uint8 RGB, the image at the size that the network got
    found: Segments  #: predictions, at the size of the image file
    alignments: list[Alignment]  #: coarsest first


def look(model: nn.Module, sample: dict, *, dataset: str, image_format: str, least_score: float = 0.5) -> View:
    """One forward pass.

    Args:
        model: a Detectron2 model with a pyramid of this package, in eval mode.
        sample: a sample of a test loader: ``image`` (3,H,W), ``height`` and ``width``.
        dataset: name whose metadata have class names and colours.
        image_format: INPUT.FORMAT, the order of channels of ``image``.
        least_score: lowest score of instances that are drawn.

    Raises:
        ValueError: the model has no such pyramid, or its output has nothing to draw.
    """
    with torch.no_grad(), recording(model) as alignments:
        output = model([sample])[0]
        alignments = list(alignments)
    seen = convert_image_to_rgb(sample["image"].permute(1, 2, 0), image_format)
    return View(
        seen=np.ascontiguousarray(seen, dtype=np.uint8),
        found=from_prediction(output, dataset, least_score=least_score),
        alignments=alignments,
    )


def alignment_row(record: Alignment, seen: np.ndarray, *, scale: int) -> list[Picture]:
    """The map before and after, and the field in colours and as arrows if samples are moved; captions have the scales.

    Args:
        record: an alignment of a pass on ``seen``.
        seen: (H,W,3) uint8 RGB.
        scale: enlargement of the pictures.
    """
    drawn: AlignmentPictures = draw_alignment(record, seen, scale=scale)
    low, high = drawn.heat_range
    row = [
        Picture(drawn.before, f"{record.title} before, {low:.2g} to {high:.2g}"),
        Picture(drawn.after, f"{record.title} after, {low:.2g} to {high:.2g}"),
    ]
    if drawn.colors is not None:
        row.append(Picture(drawn.colors, f"{record.field}, full colour at {drawn.greatest:.2g} px"))
        row.append(Picture(drawn.arrows, f"{record.field}, {_length(drawn)}"))
    return row


def field_row(records: Sequence[Alignment], seen: np.ndarray, *, scale: int) -> list[Picture]:
    """Figure 5 of SFNet: the fields of all alignments, coarsest first, then the last as arrows; [] if nothing is moved.

    Args:
        records: the alignments of a pass on ``seen``.
        seen: (H,W,3) uint8 RGB.
        scale: enlargement of the pictures.
    """
    moving = [record for record in records if record.displacement is not None]
    all_drawn = [draw_alignment(record, seen, scale=scale) for record in moving]
    row = [
        Picture(drawn.colors, f"{record.title}, full colour at {drawn.greatest:.2g} px")
        for record, drawn in zip(moving, all_drawn)
    ]
    if row:
        row.append(Picture(all_drawn[-1].arrows, f"{moving[-1].title}, {_length(all_drawn[-1])}"))
    return row


def _length(drawn: AlignmentPictures) -> str:
    return "true length" if drawn.gain == 1 else f"{drawn.gain:g} times as long"
