"""Residual Feature Augmentation of AugFPN: Guo et al., CVPR 2020, Section 3.2, Figure 3a, Table 4.

Legend: N images, C channels of the coarsest bottom-up map, D channels of the pyramid, h x w size of that map.
"""

from collections.abc import Sequence

import torch
from detectron2.layers import Conv2d
from torch import nn
from torch.nn import functional as F

from .conv import xavier_uniform
from .spatial_fusion import build_fusion

POOLINGS = ("ratio", "psp", "gap", "gmp")


class ResidualAugmentation(nn.Module):
    """M6 of the paper: context of several sizes from the coarsest bottom-up map. It is added to that map's lateral.

    The map is pooled to several sizes. Each pooled map gets its own 1x1 convolution to D channels and is upsampled
    bilinearly to h x w. A fusion joins the results. As in the official code, upsampling has ``align_corners=True``.

    Args:
        in_channels, out_channels: C and D.
        pooling: "ratio", ratio-invariant average pooling (RA-AP) to max(1, floor(a h)) x max(1, floor(a w)) for each
            ratio a; "psp", average pooling to k x k for each size k; "gap" and "gmp", global average or maximum.
        ratios: the alphas for "ratio", each in (0, 1].
        sizes: the sizes for "psp", in pixels.
        fusion: "asf" or "sum" (Table 4); the others of ``spatial_fusion`` work as well.

    Shapes: (N,C,h,w) -> (N,D,h,w).

    Raises:
        ValueError: an unknown pooling or fusion, or ratios or sizes out of range.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        pooling: str = "ratio",
        ratios: Sequence[float] = (0.1, 0.2, 0.3),
        sizes: Sequence[int] = (1, 2, 3),
        fusion: str = "asf",
    ):
        super().__init__()
        key = "MODEL.NECK.RESIDUAL_AUGMENTATION"
        if pooling not in POOLINGS:
            raise ValueError(f"{key}.POOLING: unknown pooling {pooling!r}; allowed: {', '.join(POOLINGS)}")
        if not ratios or not all(0 < a <= 1 for a in ratios):
            raise ValueError(f"{key}.RATIOS = {list(ratios)}: needs at least one, each in (0, 1]")
        if not sizes or not all(isinstance(k, int) and k > 0 for k in sizes):
            raise ValueError(f"{key}.SIZES = {list(sizes)}: needs at least one, each a whole number above 0")
        self.pooling = pooling
        self.ratios = tuple(ratios)
        self.sizes = tuple(sizes)
        branches = {"ratio": len(self.ratios), "psp": len(self.sizes)}.get(pooling, 1)
        self.reduce = nn.ModuleList(Conv2d(in_channels, out_channels, kernel_size=1) for _ in range(branches))
        for conv in self.reduce:
            xavier_uniform(conv)
        self.fusion = build_fusion(fusion, out_channels, branches, key=f"{key}.FUSION")

    def pooled_sizes(self, h: int, w: int) -> list[tuple[int, int]]:
        """Height and width that a map of h x w is pooled to, one entry per branch."""
        if self.pooling == "ratio":
            return [(max(1, int(h * a)), max(1, int(w * a))) for a in self.ratios]
        if self.pooling == "psp":
            return [(k, k) for k in self.sizes]
        return [(1, 1)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = x.shape[-2:]
        pool = F.adaptive_max_pool2d if self.pooling == "gmp" else F.adaptive_avg_pool2d
        maps = [
            F.interpolate(reduce(pool(x, pooled)), size=size, mode="bilinear", align_corners=True)
            for reduce, pooled in zip(self.reduce, self.pooled_sizes(*size))
        ]
        return self.fusion(maps)

    def extra_repr(self) -> str:
        given = {"ratio": f", ratios={self.ratios}", "psp": f", sizes={self.sizes}"}.get(self.pooling, "")
        return f"pooling={self.pooling}{given}"
