"""Warping of a coarse map by a flow field: Li et al., "Semantic Flow for Fast and Accurate Scene Parsing", Section 3.2.

Legend: N images, C channels, H x W size of the flow and of the result, h x w size of the coarse map.
"""

import os

import torch
from torch import Tensor

from ..operator_support import check_backend
from .operator import by_grid_sample, operator

#: Number of fine pixels that one unit of flow moves a sample. The official code adds flow / (W, H) to coordinates that
#: run from -1 to 1 over the fine map, which is half a pixel. The formula of Section 3.2, (p + flow(p)) / 2 in coarse
#: pixels, is one pixel.
OFFICIAL_UNIT = 0.5
PAPER_UNIT = 1.0


BACKENDS = ("auto", "grid_sample")
#: Environment variable that chooses the backend of a process.
VARIABLE = "FAPN_FLOW_WARP"
_BACKEND = check_backend(os.environ.get(VARIABLE, "auto"), BACKENDS, of="the flow warp", source=VARIABLE)


def flow_warp(
    x: Tensor,
    flow: Tensor,
    *,
    added: Tensor | None = None,
    unit: float = OFFICIAL_UNIT,
    align_corners: bool = True,
) -> Tensor:
    """Sample ``x`` bilinearly at the positions that ``flow`` gives, one sample per pixel of the flow; zero outside
    ``x``.

    Coordinates are normalised: pixel X of W is at gx = -1 + 2X / (W - 1) in the fine map, so that zero flow resamples
    ``x`` to H x W. A flow of (u, v) moves the sample by 2 * unit * (u / W, v / H). That is ``unit`` fine pixels per
    unit of flow, up to the factor (W - 1) / W, and does not depend on the size of ``x``. With ``align_corners`` the
    sample is at::

        column  X (w - 1)/(W - 1) + unit * u (w - 1)/W        row  Y (h - 1)/(H - 1) + unit * v (h - 1)/H

    in pixels of ``x``, and zero flow equals ``F.interpolate(x, (H, W), mode="bilinear", align_corners=True)``. If the
    fine map is one pixel wide or high, the first column or row is sampled.

    Args:
        x: the input (N, C, h, w).
        flow: (N, 2, H, W); channel 0 is the displacement to the right, channel 1 the displacement down.
        added: a map (N, C, H, W) that is added to the warped map, on CUDA in the same pass; None: nothing.
        unit: number of fine pixels that one unit of flow moves a sample.
        align_corners: True: -1 and 1 are the centres of the outermost pixels of ``x``, as in the official code; False:
            their outer edges, which is what the paper's own code computes with PyTorch >= 1.3.

    Returns:
        (N, C, H, W) of the type of ``x``, or of the type of the sum. For half precision, positions and weights are
        computed in float32.

    Raises:
        ValueError: the shapes of ``x``, ``flow`` and ``added`` do not fit; the message has the shapes.

    On CUDA this is the operator ``fapn_d2::flow_warp`` with its own kernel. Elsewhere and in exports it is
    ``F.grid_sample``. The environment variable FAPN_FLOW_WARP=grid_sample chooses ``F.grid_sample`` everywhere.
    """
    if x.dim() != 4 or flow.dim() != 4 or flow.shape[1] != 2 or flow.shape[0] != x.shape[0]:
        raise ValueError(
            f"flow_warp takes x (N, C, h, w) and flow (N, 2, H, W), got {tuple(x.shape)} and {tuple(flow.shape)}"
        )
    if added is not None and added.shape != (*x.shape[:2], *flow.shape[2:]):
        raise ValueError(
            f"the map that a warped one is added to must be {(*x.shape[:2], *flow.shape[2:])}, got {tuple(added.shape)}"
        )
    own = x.is_cuda and _BACKEND == "auto" and not torch.compiler.is_exporting()
    if own and (added is None or added.dtype == x.dtype):
        return operator(x, flow, added, unit, align_corners)
    return by_grid_sample(x, flow, added, unit, align_corners)
