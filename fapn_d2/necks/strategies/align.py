"""ALIGN: what brings the coarser map to the size of the finer one and aligns its content."""

import fvcore.nn.weight_init as weight_init
from torch import nn

from ...layers.deform_conv.backend import check_backend
from ...layers.feature_align import FeatureAlign
from ...layers.flow_align import FlowAlign
from ...layers.resize import resize_to
from ..parts import Align
from ..registry import ALIGNS


class Resample(Align):
    """Resampling without alignment; of the fine map only the size is read."""

    needs_fine_features = False

    def __init__(self, mode: str):
        super().__init__()
        self.mode = mode

    def forward(self, fine, coarse):
        return self.upsample(fine, coarse)

    def upsample(self, fine, coarse):
        return resize_to(coarse, fine.shape[-2:], self.mode)

    def extra_repr(self):
        return f"mode={self.mode}"


class Deconvolution(Align):
    """Learnt upsampling; of the fine map only the size is read.

    A transposed 4x4 convolution of stride 2 with bias: this kernel reaches every output pixel with equally many taps.
    Where H x W is not 2h x 2w, as with odd sizes, its result is resampled bilinearly.

    Args:
        channels: channels of the pyramid.
    """

    needs_fine_features = False

    def __init__(self, channels: int):
        super().__init__()
        self.deconv = nn.ConvTranspose2d(channels, channels, kernel_size=4, stride=2, padding=1)
        weight_init.c2_xavier_fill(self.deconv)

    def forward(self, fine, coarse):
        return resize_to(self.deconv(coarse), fine.shape[-2:], "bilinear")


class DeformAlign(FeatureAlign, Align):
    """FaPN's feature alignment module as a part of the pyramid."""

    field = "offsets"


class FlowWarpAlign(FlowAlign, Align):
    """SFNet's flow alignment module as a part of the pyramid."""

    field = "flow"
    adds_in_one_pass = True


@ALIGNS.register
def nearest(level, neck):
    """FPN, Section 3: nearest-neighbour resampling."""
    return Resample("nearest")


@ALIGNS.register
def bilinear(level, neck):
    """Bilinear resampling, ``align_corners=False``."""
    return Resample("bilinear")


@ALIGNS.register
def bilinear_corners(level, neck):
    """SFNet's rows without alignment: bilinear resampling, ``align_corners=True``, which equals a warp by zero flow."""
    return Resample("bilinear_corners")


@ALIGNS.register
def deconv(level, neck):
    """FaPN, Table 1, "deconv". The paper does not state the kernel; no usual one gives the printed parameter count."""
    return Deconvolution(level.out_channels)


@ALIGNS.register
def deform(level, neck):
    """FaPN, Section 3.1: upsampling and a deformable convolution whose offsets both maps predict."""
    backend = neck.DEFORM.BACKEND
    return DeformAlign(
        level.out_channels,
        offset_groups=neck.DEFORM.GROUPS,
        upsample=neck.DEFORM.UPSAMPLE,
        offset_gain=neck.DEFORM.OFFSET_GAIN,
        backend=check_backend(backend, "MODEL.NECK.DEFORM.BACKEND") if backend else None,
        norm=level.norm,
        fused_input=level.merge == "fuse_then_align",
    )


@ALIGNS.register
def flow(level, neck):
    """SFNet, Section 3.2: warping by a flow field that both maps predict."""
    return FlowWarpAlign(level.out_channels, unit=neck.FLOW.UNIT, align_corners=neck.FLOW.ALIGN_CORNERS)
