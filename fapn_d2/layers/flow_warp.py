"""Warping of a coarse map by a flow field: Li et al., "Semantic Flow for Fast and Accurate Scene Parsing", Section 3.2.

Legend: N images, C channels, H x W size of the flow and of the result, h x w size of the coarse map.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

#: Fine pixels that one unit of flow moves. The official code adds flow / (W, H) to coordinates that run from -1 to 1
#: over the fine map, which is half a pixel; Section 3.2, p = (p + flow) / 2 in coarse pixels, is one.
OFFICIAL_UNIT = 0.5
PAPER_UNIT = 1.0


def flow_warp(x: Tensor, flow: Tensor, *, unit: float = OFFICIAL_UNIT, align_corners: bool = True) -> Tensor:
    """Sample ``x`` bilinearly where ``flow`` points, one sample for each pixel of the flow; zero outside of ``x``.

    Coordinates are normalised: pixel X of W is at gx = -1 + 2X / (W - 1) in the fine map, so that zero flow resamples
    ``x`` to H x W. A flow of (u, v) moves the sample by 2 * unit * (u / W, v / H), that is by ``unit`` fine pixels per
    unit of flow up to the factor (W - 1) / W, whatever the size of ``x``. With ``align_corners`` the sample is at::

        column  X (w - 1)/(W - 1) + unit * u (w - 1)/W        row  Y (h - 1)/(H - 1) + unit * v (h - 1)/H

    in pixels of ``x``, and zero flow equals ``F.interpolate(x, (H, W), mode="bilinear", align_corners=True)``. A fine
    map one pixel wide or high samples the first column or row.

    Args:
        x: (N, C, h, w).
        flow: (N, 2, H, W): channel 0 to the right, channel 1 down.
        unit: fine pixels that one unit of flow moves.
        align_corners: True: -1 and 1 are the centres of the outermost pixels of ``x``, as in the official code; False:
            their outer edges, which is what the paper's own code computes with PyTorch >= 1.3.

    Returns:
        (N, C, H, W) of the type of ``x``. Positions and weights of half precisions are computed in float32, since a
        half cannot tell neighbouring pixels of a large map apart.

    Raises:
        ValueError: ``x`` and ``flow`` do not fit, with both shapes.
    """
    if x.dim() != 4 or flow.dim() != 4 or flow.shape[1] != 2 or flow.shape[0] != x.shape[0]:
        raise ValueError(
            f"flow_warp takes x (N, C, h, w) and flow (N, 2, H, W), got {tuple(x.shape)} and {tuple(flow.shape)}"
        )
    dtype = torch.promote_types(torch.promote_types(x.dtype, flow.dtype), torch.float32)
    size = flow.shape[-2:]
    gy, gx = (_coordinates(s, dtype, x.device) for s in size)
    flow = flow.to(dtype)
    sample_x = gx + flow[:, 0] * (2 * unit / size[1])
    sample_y = gy[:, None] + flow[:, 1] * (2 * unit / size[0])
    grid = torch.stack([sample_x, sample_y], dim=-1)
    warped = F.grid_sample(x.to(dtype), grid, mode="bilinear", padding_mode="zeros", align_corners=align_corners)
    return warped.to(x.dtype)


def _coordinates(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """-1 to 1 in ``size`` steps, -1 for a single one. Unlike ``linspace`` it is exported with the size left free."""
    return torch.arange(size, dtype=dtype, device=device) * (2 / torch.sym_max(size - 1, 1)) - 1
