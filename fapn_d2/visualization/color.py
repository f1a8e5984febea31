"""Numbers to colours.

Legend: H x W size of a map. Pictures are (H, W, 3) uint8, RGB.
"""

import colorsys

import matplotlib
import numpy as np
import torch
from torch.nn.functional import pad
from torchvision.utils import flow_to_image

RGB = tuple[int, int, int]

#: matplotlib's name of the colours of feature maps, dark to bright, in which equal steps look equal.
HEAT_MAP = "magma"


def heat(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """(H,W) -> picture: ``low`` and below is black, ``high`` and above the brightest colour.

    Two maps can be compared only if both are drawn with the same ``low`` and ``high``.
    """
    span = max(high - low, 1e-12)
    table = (matplotlib.colormaps[HEAT_MAP](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
    return table[np.clip((values - low) / span * 255, 0, 255).astype(np.uint8)]


def common_range(*maps: np.ndarray, percent: float = 1.0) -> tuple[float, float]:
    """(low, high) that hold all values of all maps but the lowest and the highest ``percent``."""
    values = np.concatenate([m.ravel() for m in maps])
    low, high = np.percentile(values, [percent, 100 - percent])
    return float(low), float(high)


def flow_colors(displacement: np.ndarray, greatest: float) -> np.ndarray:
    """(2,H,W) of (dy, dx) -> picture in the colours of optical flow: hue is direction, saturation is length, white is
    no displacement.

    torchvision draws the colours of Baker et al., "A Database and Evaluation Methodology for Optical Flow", which
    SFNet's figures cite: red to the right, yellow down, blue to the left, magenta up.

    Args:
        displacement: the displacement in any unit.
        greatest: length that is drawn in full colour, as are all greater ones.
    """
    flow = torch.from_numpy(np.ascontiguousarray(displacement[::-1], np.float32)) / max(greatest, 1e-12)
    flow = flow / flow.norm(dim=0).clamp_min(1.0)
    # torchvision takes the longest vector of a picture as full colour: one more column has vectors of that length.
    flow = pad(flow, (0, 1), value=0.5**0.5)
    return flow_to_image(flow)[..., :-1].permute(1, 2, 0).numpy()


def flow_wheel(size: int = 96) -> np.ndarray:
    """The key to :func:`flow_colors`: a disc in a dark square of (size, size) pixels, whose rim is the greatest
    displacement."""
    y, x = (np.mgrid[:size, :size] - (size - 1) / 2) / (size / 2 - 1.5)
    wheel = flow_colors(np.stack([y, x]), greatest=1.0)
    wheel[np.hypot(y, x) > 1] = 40
    return wheel


def shade(color: RGB, index: int) -> RGB:
    """A lighter or darker tone of ``color`` for the object number ``index``: neighbours of one class stay apart."""
    hue, light, saturation = colorsys.rgb_to_hls(*(c / 255 for c in color))
    step = (0.0, 0.14, -0.12, 0.22, -0.2)[index % 5]
    tone = colorsys.hls_to_rgb(hue, min(max(light + step, 0.15), 0.88), saturation)
    return tuple(round(255 * c) for c in tone)


def to_hex(color: RGB) -> str:
    """(r, g, b) in 0..255 -> "#rrggbb"."""
    return "#{:02x}{:02x}{:02x}".format(*(int(c) for c in color))
