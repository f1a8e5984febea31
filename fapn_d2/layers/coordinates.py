"""Coordinates as channels, for convolutions that should know where they are: Liu et al., "CoordConv", NeurIPS 2018."""

import torch
from torch import Tensor


def append_coordinates(x: Tensor) -> Tensor:
    """(N,C,H,W) -> (N,C+2,H,W): two channels that run from -1 to 1, the first down the map, the second across it.

    A side of one pixel has the coordinate -1.
    """
    n, _, height, width = x.shape
    rows = torch.linspace(-1, 1, height, dtype=x.dtype, device=x.device)
    columns = torch.linspace(-1, 1, width, dtype=x.dtype, device=x.device)
    rows = rows[:, None].expand(n, 1, height, width)
    columns = columns.expand(n, 1, height, width)
    return torch.cat([x, rows, columns], dim=1)
