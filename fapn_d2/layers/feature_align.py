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
    """Resample a coarse map to the size of the fine map, then align it by a modulated deformable 3x3 convolution.

    With U the upsampled coarse map and L the fine one::

        R = W [L, gain * U]                      f_o of Equation 1: 1x1, 2C -> C, no bias, optional norm
        offset, mask = split(conv3x3(R))         2KG and KG channels, mask through a sigmoid
        output = relu(deform_conv3x3(U, offset, mask))       f_a of Equation 1

    The official code differs from the paper's text, and this module follows the code, because checkpoints and parameter
    counts need it: f_o is a 1x1 convolution and a plain 3x3 convolution; f_a is modulated, has G = 8 groups and is
    followed by ReLU; the upsampled map is doubled where offsets are predicted (``offset_gain``; the text has 1).

    Args:
        channels: number of channels C of both maps and of the output; a multiple of ``offset_groups``.
        offset_groups: number of groups G.
        upsample: "bilinear" (official code) or "nearest" (Appendix B, real-time).
        offset_gain: factor on U where offsets are predicted; the deformable convolution samples U itself.
        norm: name for Detectron2's ``get_norm``, applied after the 1x1.
        fused_input: True: the module aligns one map that has been fused already, by offsets predicted from that map
            (Table 1, the row with a dagger). There is no concatenation then, and no 1x1 convolution.
        backend: backend of the deformable convolution; None: the process's choice.

    Raises:
        ValueError: ``upsample`` or ``backend`` is unknown, or C is not a multiple of G.
    """

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
        self.fused_input = fused_input
        self.upsample_mode = upsample
        self.offset_gain = offset_gain
        self.num_mask_channels = 9 * offset_groups
        if not fused_input:
            self.offset_reduce = Conv2d(2 * channels, channels, 1, bias=False, norm=get_norm(norm, channels))
            weight_init.c2_xavier_fill(self.offset_reduce)
        self.offset_mask = Conv2d(channels, 3 * self.num_mask_channels, 3, padding=1)
        # With zero weights all offsets are 0 and all masks 0.5 at the start.
        nn.init.zeros_(self.offset_mask.weight)
        nn.init.zeros_(self.offset_mask.bias)
        self.deform_conv = ModulatedDeformConv2d(
            channels, channels, 3, padding=1, offset_groups=offset_groups, backend=backend
        )

    def forward(self, fine: torch.Tensor, coarse: torch.Tensor, *, norm: nn.Module | None = None) -> torch.Tensor:
        """(N,C,H,W), (N,C,h,w) -> (N,C,H,W): ``coarse`` aligned to ``fine``.

        With ``fused_input`` both arguments are the fused map, which is aligned by itself. ``norm`` is applied after the
        1x1 where the module has no norm of its own: MaskFormer's pixel decoder shares one between two layers.
        """
        if self.fused_input:
            return self.align_fused(coarse)
        reference = self._reference(fine, coarse, norm)
        return self._align(self.upsample(fine, coarse), reference)

    def _reference(self, fine: torch.Tensor, coarse: torch.Tensor, norm: nn.Module | None = None) -> torch.Tensor:
        """(N,C,H,W), (N,C,h,w) -> (N,C,H,W): R, from which offsets and masks are predicted."""
        # W [L, gain U] = W_l L + up(gain W_u coarse): a 1x1 convolution commutes with resampling, because the weights
        # of resampling sum to one. This saves the concatenation, and half of the product is computed at the coarse
        # size.
        weight = self.offset_reduce.weight
        of_fine, of_coarse = weight.split(fine.shape[1], dim=1)
        # There is a bias only where a norm has been folded into the convolution.
        reference = F.conv2d(fine, of_fine, self.offset_reduce.bias)
        reference += self.upsample(fine, F.conv2d(coarse, self.offset_gain * of_coarse))
        norm = self.offset_reduce.norm if norm is None else norm
        return reference if norm is None else norm(reference)

    def displacement(self, fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        """(N,C,H,W), (N,C,h,w) -> (N,2,H,W): `mean_displacement` of the offsets, in float32, in pixels of ``fine``."""
        offset, mask = self._offsets(coarse if self.fused_input else self._reference(fine, coarse))
        return mean_displacement(offset.float(), mask.float(), self.deform_conv.weight.float())

    def upsample(self, fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        """(N,C,H,W), (N,C,h,w) -> (N,C,H,W): P^u of the paper, ``coarse`` at the size of ``fine``."""
        return resize_to(coarse, fine.shape[-2:], self.upsample_mode)

    def align_fused(self, fused: torch.Tensor) -> torch.Tensor:
        """(N,C,H,W) -> (N,C,H,W): a fused map aligned by offsets predicted from itself (needs ``fused_input``)."""
        return self._align(fused, fused)

    def _align(self, x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        return F.relu(self.deform_conv(x, *self._offsets(reference)))

    def _offsets(self, reference: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N,C,H,W) -> offset (N,2KG,H,W) and mask (N,KG,H,W)."""
        prediction = self.offset_mask(reference)
        offset, mask = prediction.split([2 * self.num_mask_channels, self.num_mask_channels], dim=1)
        return offset, mask.sigmoid()


def mean_displacement(offset: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Where a deformable convolution samples on average, relative to where a plain convolution would.

    This is a mean over groups and taps. Each tap is weighted by its mask and by the norm of its weights, because a tap
    that hardly counts may point anywhere.

    Args:
        offset: (...,2GK,H,W), group-major, then taps, then (dy, dx), in pixels of the map.
        mask: (...,GK,H,W), in [0, 1].
        weight: the weights (O,C,kh,kw) of the convolution, with C split evenly into G groups.

    Returns:
        (...,2,H,W), (dy, dx) in pixels of the map; zeros where all masks are zero.
    """
    taps = weight.shape[2] * weight.shape[3]
    groups = mask.shape[-3] // taps
    strength = weight.reshape(len(weight), groups, -1, taps).square().sum(dim=(0, 2)).sqrt()  # (G,K)
    share = mask.unflatten(-3, (groups, taps)) * strength[..., None, None]
    share = share / share.sum(dim=(-4, -3), keepdim=True).clamp_min(torch.finfo(share.dtype).tiny)
    return torch.einsum("...gkdhw,...gkhw->...dhw", offset.unflatten(-3, (groups, taps, 2)), share)
