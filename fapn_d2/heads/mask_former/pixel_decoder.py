"""MaskFormer's pixel decoders, which compute the embedding of every pixel: Cheng et al., NeurIPS 2021, Section 3.3.

Letters: N images, C_i bottom-up map of level i, D channels of the decoder, E channels of the embedding.
"""

import fvcore.nn.weight_init as weight_init
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.utils.registry import Registry
from torch import Tensor, nn
from torch.nn import functional as F

from ...layers.conv import conv_norm
from ...layers.feature_align import FeatureAlign
from ...necks.build import GivenMaps, build_pyramid, describe_levels
from ...necks.presets import resolve_strategies
from ...necks.registry import ALIGNS, FUSES, Level

PIXEL_DECODERS = Registry("PIXEL_DECODER")
PIXEL_DECODERS.__doc__ = """MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME: cfg, shapes of the bottom-up maps -> a module that
turns the maps by name into pixel embeddings (N, E, H/4, W/4)."""

#: Keys of MODEL.NECK for the parts that this decoder fixes.
_FIXED = ("CONTEXT", "LATERAL", "MERGE", "OUTPUT")


@PIXEL_DECODERS.register()
class MaskFormerPixelDecoder(nn.Module):
    """A top-down path that passes the *outputs* of levels to the finer levels::

        y_5 = relu(norm(conv3x3(C_5)))
        l_i = norm(conv1x1(C_i))
        y_i = relu(norm_i(conv3x3(fuse(l_i, align(l_i, y_{i+1})))))
        E   = conv3x3(y_2)

    In a :class:`~fapn_d2.necks.topdown.TopDownPyramid`, in contrast, the sum before the output convolution goes to the
    finer level. Alignment and fusion are the pyramid's parts, MODEL.NECK.ALIGN and FUSE: "nearest" and "sum" are
    MaskFormer's (``BasePixelDecoder``), "deform" is FaPN's (``BasePixelFANDecoder``). As in the official code, FaPN's
    alignment has no norm of its own and uses norm_i a second time, and there is no selection module.

    Args:
        levels: the levels, finest first. Their norm is also the norm of the decoder.
        aligns, fuses: one part for each level but the coarsest, finest first.
        mask_channels: the number of channels E.

    Parameters: ``adapter_<i>`` (l_i), ``align_<i>``, ``fuse_<i>``, ``layer_<i>`` and ``norm_<i>`` (y_i), with i from 1
    on the finest level, and ``mask_features`` (E).
    """

    @configurable
    def __init__(
        self,
        levels: list[Level],
        *,
        aligns: list[nn.Module],
        fuses: list[nn.Module],
        mask_channels: int,
    ):
        super().__init__()
        self.levels = tuple(levels)
        channels = levels[-1].out_channels
        for i, level in enumerate(levels, 1):
            coarsest = i == len(levels)
            if not coarsest:
                self.add_module(f"adapter_{i}", _conv(level.in_channels, channels, 1, norm=level.norm))
                self.add_module(f"align_{i}", aligns[i - 1])
                self.add_module(f"fuse_{i}", fuses[i - 1])
            layer = _conv(level.in_channels if coarsest else channels, channels, 3, norm="", bias=level.norm == "")
            self.add_module(f"layer_{i}", layer)
            self.add_module(f"norm_{i}", get_norm(level.norm, channels))
        self.mask_features = Conv2d(channels, mask_channels, kernel_size=3, padding=1)
        weight_init.c2_xavier_fill(self.mask_features)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        head, neck = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.NECK
        named = [f"MODEL.NECK.{key}" for key in _FIXED if neck[key]] + ["MODEL.NECK.PRESET"] * bool(neck.PRESET)
        if named:
            raise ValueError(
                f"{' and '.join(named)} cannot be set for PIXEL_DECODER_NAME {cls.__name__!r}, which takes MODEL.NECK."
                "ALIGN and FUSE and fixes the rest; PIXEL_DECODER_NAME 'PyramidPixelDecoder' takes any pyramid"
            )
        features = list(head.IN_FEATURES)
        names = resolve_strategies(cfg, neck, preset="fpn", num_levels=len(features))
        levels = describe_levels(
            input_shape,
            features,
            out_channels=head.CONVS_DIM,
            norm=head.NORM,
            merges=names["MERGE"],
            key="MODEL.SEM_SEG_HEAD.IN_FEATURES",
        )
        # The decoder has the norms, so alignments are built without norms.
        plain = [Level(**{**vars(level), "norm": ""}) for level in levels[:-1]]
        return {
            "levels": levels,
            "aligns": [ALIGNS.build(name, level, neck) for name, level in zip(names["ALIGN"], plain)],
            "fuses": [FUSES.build(name, level, neck) for name, level in zip(names["FUSE"], plain)],
            "mask_channels": head.MASK_DIM,
        }

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Bottom-up maps by name -> (N, E, H, W) of the finest of them."""
        y = None
        for i in range(len(self.levels), 0, -1):
            x = features[self.levels[i - 1].feature]
            if y is not None:
                fine = getattr(self, f"adapter_{i}")(x)
                x = getattr(self, f"fuse_{i}")(fine, self._aligned(i, fine, y))
            y = F.relu(self._normed(i, getattr(self, f"layer_{i}")(x)))
        return self.mask_features(y)

    def _normed(self, i: int, x: Tensor) -> Tensor:
        norm = getattr(self, f"norm_{i}")
        return x if norm is None else norm(x)

    def _aligned(self, i: int, fine: Tensor, coarse: Tensor) -> Tensor:
        align = getattr(self, f"align_{i}")
        if isinstance(align, FeatureAlign):
            return align(fine, coarse, norm=getattr(self, f"norm_{i}"))
        return align(fine, coarse)


def _conv(in_channels: int, out_channels: int, kernel_size: int, *, norm: str, bias: bool | None = None) -> Conv2d:
    conv = conv_norm(in_channels, out_channels, norm=norm, kernel_size=kernel_size, bias=bias)
    weight_init.c2_xavier_fill(conv)
    return conv


@PIXEL_DECODERS.register()
class PyramidPixelDecoder(nn.Module):
    """Any pyramid of this project on the bottom-up maps. A 3x3 convolution of its finest level gives the embedding.

    MODEL.FPN and MODEL.NECK describe the pyramid, which has no levels above the coarsest map. Outputs of the other
    levels are not built, because nothing would read them.

    Args:
        pyramid: the pyramid, a module that reads the maps by name.
        level: the name of its finest level.
        channels: the number of channels of its levels.
        mask_channels: the number of channels E.
    """

    @configurable
    def __init__(self, pyramid: nn.Module, *, level: str, channels: int, mask_channels: int):
        super().__init__()
        self.pyramid = pyramid
        self.level = level
        self.mask_features = Conv2d(channels, mask_channels, kernel_size=3, padding=1)
        weight_init.c2_xavier_fill(self.mask_features)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        cfg = cfg.clone()
        cfg.defrost()
        neck, features = cfg.MODEL.NECK, cfg.MODEL.FPN.IN_FEATURES
        names = resolve_strategies(cfg, neck, preset=neck.PRESET or "fpn", num_levels=len(features))
        neck.OUTPUT = [names["OUTPUT"][0], *["identity"] * (len(features) - 1)]
        neck.TOP_BLOCK, neck.EXTRA_OUTPUTS = "none", []
        pyramid = build_pyramid(
            cfg, ShapeSpec(channels=0), preset=None, top_block="none", bottom_up=GivenMaps(input_shape)
        )
        level, shape = next(iter(pyramid.output_shape().items()))
        return {
            "pyramid": pyramid,
            "level": level,
            "channels": shape.channels,
            "mask_channels": cfg.MODEL.SEM_SEG_HEAD.MASK_DIM,
        }

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Bottom-up maps by name -> (N, E, H, W) of the finest of them."""
        return self.mask_features(self.pyramid(features)[self.level])


def build_pixel_decoder(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME on bottom-up maps of these shapes.

    Raises:
        ValueError: the name is unknown, or the bottom-up network does not have a map; see also the decoder.
    """
    name = cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME
    if name not in PIXEL_DECODERS:
        allowed = ", ".join(known for known, _ in PIXEL_DECODERS)
        raise ValueError(f"MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME: unknown {name!r}; allowed: {allowed}")
    return PIXEL_DECODERS.get(name)(cfg, input_shape)
