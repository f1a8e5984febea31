"""Pictures of an alignment, as in Figure 6 of FaPN and Figure 2 of SFNet: the maps before and after, and the field that
moves samples, in the colours of optical flow and as arrows.

Legend: C channels, H x W size of the map, s enlargement. Pictures are (H, W, 3) uint8, RGB.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from torch import Tensor

from .color import common_range, flow_colors, flow_wheel, heat
from .paint import draw_arrows, enlarge
from .recording import Alignment

#: Number of arrows along the shorter side of the image, unless the map is coarser.
ARROWS = 15
#: How captions call the reduction of a feature vector to one number.
REDUCTION = "mean over channels"


@dataclass(frozen=True)
class AlignmentPictures:
    """Pictures of the size of the enlarged image, and the ends of their colour scales."""

    before: np.ndarray
    after: np.ndarray
    heat_range: tuple[float, float]  #: values of the darkest and the brightest colour, the same for both maps
    colors: np.ndarray | None  #: the field as hue and strength, with the key in a corner; None where nothing moves
    arrows: np.ndarray | None  #: the field as arrows on the image, which point to where samples come from
    greatest: float  #: displacement in input pixels that is drawn in full colour; 0 where nothing moves
    gain: float  #: arrows are this many times as long as the displacement


def reduce_channels(features: Tensor) -> np.ndarray:
    """(C,H,W) -> (H,W), the mean. The paper does not say how its Figure 6 reduces channels."""
    return features.mean(dim=0).numpy()


def draw_alignment(record: Alignment, image: np.ndarray, *, scale: int = 3) -> AlignmentPictures:
    """Draw one alignment over the image that it was recorded on.

    Args:
        record: an alignment of a forward pass on ``image``.
        image: picture (H,W,3) of the size that the network got, without padding.
        scale: s, for all pictures.
    """
    size = image.shape[:2]
    before, after = reduce_channels(record.before), reduce_channels(record.after)
    low, high = common_range(before, after)
    colors = arrows = None
    greatest, gain = 0.0, 1.0
    if record.displacement is not None:
        moved = record.displacement.numpy()
        greatest = float(np.percentile(np.hypot(*moved), 98))
        field = np.stack([_fit(m, record.stride, size, scale, cv2.INTER_LINEAR) for m in moved])
        colors = with_wheel(flow_colors(field, greatest))
        field *= scale
        step = max(round(min(size) * scale / ARROWS), record.stride * scale)
        gain = _gain(greatest * scale, step)
        arrows = draw_arrows((enlarge(image, scale) * 0.7).astype(np.uint8), field, step=step, gain=gain)
    return AlignmentPictures(
        before=_fit(heat(before, low, high), record.stride, size, scale, cv2.INTER_NEAREST),
        after=_fit(heat(after, low, high), record.stride, size, scale, cv2.INTER_NEAREST),
        heat_range=(low, high),
        colors=colors,
        arrows=arrows,
        greatest=greatest,
        gain=gain,
    )


def with_wheel(picture: np.ndarray) -> np.ndarray:
    """A copy with the key to the colours in its upper right corner, as in SFNet's figures."""
    size = max(24, min(picture.shape[:2]) // 5)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    disc = np.hypot(y, x) <= size / 2
    marked = picture.copy()
    marked[6 : size + 6, -size - 6 : -6][disc] = flow_wheel(size)[disc]
    return marked


def _gain(greatest: float, step: int) -> float:
    """1, or a whole number that makes a small field visible: the longest arrows reach most of the way to the next."""
    return max(1.0, float(round(0.8 * step / greatest))) if greatest > 0 else 1.0


def _fit(values: np.ndarray, stride: int, size: tuple[int, int], scale: int, how: int) -> np.ndarray:
    """A map of the padded input -> the part over the image, enlarged to (s*size)."""
    h, w = values.shape[:2]
    spread = cv2.resize(values, (w * stride * scale, h * stride * scale), interpolation=how)
    return spread[: size[0] * scale, : size[1] * scale]
