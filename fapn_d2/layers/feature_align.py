"""Feature alignment module (FAM) of FaPN: Huang et al., ICCV 2021, Section 3.1, Equations 1 to 3.

Legend: N images, C channels, H x W size of the fine map, h x w size of the coarse map, G offset groups, K = 9 taps.
"""

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.layers import Conv2d, get_norm
from torch import nn
from torch.nn import functional as F

from .deform_conv.module import ModulatedDeformConv2d
from .resize import RESIZE_MODES, resize_to


class FeatureAlign(nn.Module):
    """Resample a coarse map to the fine one and align it there by a modulated deformable 3x3 convolution.

    With U the upsampled coarse map and L the fine one::

        R = W [L, gain * U]                      f_o of Equation 1: 1x1, 2C -> C, no bias, optional norm
        offset, mask = split(conv3x3(R))         2KG and KG channels, mask through a sigmoid
        output = relu(deform_conv3x3(U, offset, mask))       f_a of Equation 1

    Departures of the official code from the paper's text, followed here because checkpoints and parameter counts need
    them: f_o is a 1x1 and a plain 3x3 convolution; f_a is modulated, with G = 8 groups, followed by ReLU; the
    upsampled map is doubled where offsets are predicted (``offset_gain``; the text has 1).

    Args:
        channels: C of both maps and of the output; a multiple of ``offset_groups``.
        offset_groups: G.
        upsample: "bilinear" (official code) or "nearest" (Appendix B, real-time).
        offset_gain: factor on U in the offset branch only; the convolution samples U itself.
        norm: name for Detectron2's ``get_norm``, applied after the 1x1.
        fused_input: True predicts offsets from, and aligns, one map that has been fused already (``align_fused``);
            there is no concatenation then and no 1x1 (Table 1, the row with a dagger).
        backend: of the deformable convolution; None: the process's choice.

    Raises:
        ValueError: if ``upsample`` or ``backend`` is unknown or C is not a multiple of G.
    """

    #: The fine map is read, not just its size.
    needs_fine_features = True

    def __init__(
        self,
        channels: int,
        *,
        offset_groups: int = 8,
        upsample: str = "bilinear",
        offset_gain: float = 2.0,
        norm: str = "",
        fused_input: bool = False,
        backend: str | None = None,
    ):
        super().__init__()
        if upsample not in RESIZE_MODES:
            raise ValueError(f"unknown upsampling {upsample!r} before alignment; allowed: {', '.join(RESIZE_MODES)}")
        if channels % offset_groups:
            raise ValueError(f"{channels} channels cannot be split into {offset_groups} offset groups of equal size")
        self.upsample_mode = upsample
        self.offset_gain = offset_gain
        self.num_mask_channels = 9 * offset_groups
        if not fused_input:
            self.offset_reduce = Conv2d(2 * channels, channels, 1, bias=False, norm=get_norm(norm, channels))
            weight_init.c2_xavier_fill(self.offset_reduce)
        self.offset_mask = Conv2d(channels, 3 * self.num_mask_channels, 3, padding=1)
        # Zero: at the start all offsets are 0 and all masks 0.5.
        nn.init.zeros_(self.offset_mask.weight)
        nn.init.zeros_(self.offset_mask.bias)
        self.deform_conv = ModulatedDeformConv2d(
            channels, channels, 3, padding=1, offset_groups=offset_groups, backend=backend
        )

    def forward(self, fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        """(N,C,H,W), (N,C,h,w) -> (N,C,H,W): ``coarse`` aligned to ``fine``."""
        # W [L, gain U] = W_l L + up(gain W_u coarse), because a 1x1 convolution commutes with resampling, whose weights
        # sum to one: no concatenation, and half of the product at the coarse size.
        weight = self.offset_reduce.weight
        of_fine, of_coarse = weight.split(fine.shape[1], dim=1)
        # There is a bias where the norm has been folded into the convolution.
        reference = F.conv2d(fine, of_fine, self.offset_reduce.bias)
        reference += self.upsample(fine, F.conv2d(coarse, self.offset_gain * of_coarse))
        if self.offset_reduce.norm is not None:
            reference = self.offset_reduce.norm(reference)
        return self._align(self.upsample(fine, coarse), reference)

    def upsample(self, fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        """(N,C,H,W), (N,C,h,w) -> (N,C,H,W): P^u of the paper, ``coarse`` at the size of ``fine``."""
        return resize_to(coarse, fine.shape[-2:], self.upsample_mode)

    def align_fused(self, fused: torch.Tensor) -> torch.Tensor:
        """(N,C,H,W) -> (N,C,H,W): a fused map aligned by offsets predicted from itself (needs ``fused_input``)."""
        return self._align(fused, fused)

    def _align(self, x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        prediction = self.offset_mask(reference)
        offset, mask = prediction.split([2 * self.num_mask_channels, self.num_mask_channels], dim=1)
        return F.relu(self.deform_conv(x, offset, mask.sigmoid()))
