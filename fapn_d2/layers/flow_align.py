"""Flow alignment module (FAM) of SFNet: Li et al., "Semantic Flow for Fast and Accurate Scene Parsing", Section 3.2.

Legend: N images, C channels, H x W size of the fine map, h x w size of the coarse map.
"""

import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn

from .flow_warp.warp import OFFICIAL_UNIT, flow_warp
from .resize import resize_to


class FlowAlign(nn.Module):
    """Warp a coarse map to the fine map by a flow field that is predicted from both.

    With U the coarse map, reduced to C/2 channels and upsampled::

        flow = conv3x3 [U, W_l fine]     2 channels: displacement to the right and down
        output = warp(coarse, flow)      the map that is warped is not reduced

    The two 1x1 reductions C -> C/2 are in the official code and not in the text. The convolutions have no bias, norm or
    activation. They have PyTorch's own initialisation, so the flow does not start at zero.

    Args:
        channels: number of channels C of both maps and of the output; even.
        unit: see ``flow_warp``.
        align_corners: see ``flow_warp``; also used for the upsampling before the 3x3 convolution.

    Raises:
        ValueError: C is odd.
    """

    def __init__(self, channels: int, *, unit: float = OFFICIAL_UNIT, align_corners: bool = True):
        super().__init__()
        if channels % 2:
            raise ValueError(f"flow alignment halves the channels of its maps, got an odd number of them: {channels}")
        self.unit = unit
        self.align_corners = align_corners
        self.reduce_coarse = Conv2d(channels, channels // 2, kernel_size=1, bias=False)
        self.reduce_fine = Conv2d(channels, channels // 2, kernel_size=1, bias=False)
        self.flow = Conv2d(channels, 2, kernel_size=3, padding=1, bias=False)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """(N,C,H,W), (N,C,h,w) -> (N,C,H,W): ``coarse`` aligned to ``fine``."""
        return self._warp(coarse, self.predict_flow(fine, coarse))

    def align_and_add(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """(N,C,H,W), (N,C,h,w) -> (N,C,H,W): ``fine`` plus ``coarse`` aligned to it, on CUDA in one pass."""
        return self._warp(coarse, self.predict_flow(fine, coarse), added=fine)

    def _warp(self, coarse: Tensor, flow: Tensor, added: Tensor | None = None) -> Tensor:
        return flow_warp(coarse, flow, added=added, unit=self.unit, align_corners=self.align_corners)

    def predict_flow(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """(N,C,H,W), (N,C,h,w) -> (N,2,H,W): the semantic flow field, in the units of ``flow_warp``."""
        upsampled = self.upsample(fine, self.reduce_coarse(coarse))
        return self.flow(torch.cat([upsampled, self.reduce_fine(fine)], dim=1))

    def upsample(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """``coarse`` (N,C,h,w) at the size (H,W) of ``fine``: what a warp by no flow gives."""
        return resize_to(coarse, fine.shape[-2:], "bilinear_corners" if self.align_corners else "bilinear")

    def displacement(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """(N,C,H,W), (N,C,h,w) -> (N,2,H,W): the flow as (dy, dx) in pixels of ``fine``, in float32."""
        return self.predict_flow(fine, coarse).float().flip(1) * self.unit

    def extra_repr(self) -> str:
        return f"unit={self.unit}, align_corners={self.align_corners}"
