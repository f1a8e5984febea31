"""The semantic branch of Panoptic FPN: its width, and variants of how levels are upsampled and joined.

Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR 2019: Figure 3, Tables 1b, 1c and 1d.
Legend: N images, C channels of the pyramid, D of the branch, L levels, h x w size at the common stride, K classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from torch import Tensor, nn

from ..layers.conv import conv_norm_relu
from .input_features import require_features

#: "steps": a convolution before each doubling of the size (Figure 3); "once": two convolutions, then one resampling
#: (early version, Table 1b).
UPSAMPLINGS = ("steps", "once")
#: How the L maps of the levels become one: "sum" gives D channels, "concat" gives L * D (Table 1d).
JOINS = ("sum", "concat")


@SEM_SEG_HEADS_REGISTRY.register()
class SemanticFPNHead(SemSegFPNHead):
    """Each level -> D channels at the common stride; the levels are joined; a 1x1 convolution gives K classes.

    The defaults are Detectron2's ``SemSegFPNHead``, with the same state dict and the same results. The paper describes
    the early version of Table 1b in one sentence: two 3x3 convolutions with ReLU, bilinear upsampling to the final
    resolution, concatenation. It does not state the width, nor a normalization; ``norm=""`` has none.

    Args:
        input_shape: channels C and stride of the levels that are read.
        num_classes: number of classes K.
        conv_dims: channels D.
        common_stride: stride of the map that is classified.
        loss_weight: factor on the loss.
        norm: name for Detectron2's ``get_norm``, or "" for none; only then do convolutions have a bias.
        ignore_value: label of pixels without ground truth.
        upsampling: one of UPSAMPLINGS.
        join: one of JOINS.
        channels: the channels of every level that are read, as (first, one past the last). None: all C. With it a
            pyramid can be shared by groups of channels (Table 3d).

    Raises:
        ValueError: ``input_shape`` is empty, ``upsampling`` or ``join`` is unknown, or a level lacks ``channels``.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        conv_dims: int,
        common_stride: int,
        loss_weight: float = 1.0,
        norm: str | Callable | None = None,
        ignore_value: int = -1,
        upsampling: str = "steps",
        join: str = "sum",
        channels: Sequence[int] | None = None,
    ):
        for key, value, allowed in (("UPSAMPLING", upsampling, UPSAMPLINGS), ("JOIN", join, JOINS)):
            if value not in allowed:
                raise ValueError(f"MODEL.SEM_SEG_HEAD.{key}: unknown {value!r}; allowed: {', '.join(allowed)}")
        input_shape = {name: _narrowed(name, shape, channels) for name, shape in input_shape.items()}
        super().__init__(
            input_shape,
            num_classes=num_classes,
            conv_dims=conv_dims,
            common_stride=common_stride,
            loss_weight=loss_weight,
            norm=norm,
            ignore_value=ignore_value,
        )
        self.join = join
        self.channels = slice(*channels) if channels else None
        if upsampling == "once":
            self.scale_heads = [self._once(input_shape[name], conv_dims, norm) for name in self.in_features]
            for name, head in zip(self.in_features, self.scale_heads):
                setattr(self, name, head)
        if join == "concat":
            self.predictor = Conv2d(len(self.in_features) * conv_dims, num_classes, kernel_size=1)
            weight_init.c2_msra_fill(self.predictor)

    def _once(self, shape: ShapeSpec, width: int, norm: str | Callable | None) -> nn.Sequential:
        convs = [
            conv_norm_relu(channels, width, kernel_size=3, norm=norm, bias=not norm)
            for channels in (shape.channels, width)
        ]
        for conv in convs:
            weight_init.c2_msra_fill(conv)
        factor = shape.stride // self.common_stride
        resize = [nn.Upsample(scale_factor=factor, mode="bilinear", align_corners=False)] if factor > 1 else []
        return nn.Sequential(*convs, *resize)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        head = cfg.MODEL.SEM_SEG_HEAD
        require_features("MODEL.SEM_SEG_HEAD.IN_FEATURES", head.IN_FEATURES, input_shape)
        return super().from_config(cfg, input_shape) | {
            "upsampling": head.UPSAMPLING,
            "join": head.JOIN,
            "channels": tuple(head.CHANNELS) or None,
        }

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        """Maps (N,C,H_l,W_l) by name -> logits (N,K,h,w)."""
        if self.channels is not None:
            features = {name: features[name][:, self.channels] for name in self.in_features}
        if self.join == "sum":
            return super().layers(features)
        levels = [head(features[name]) for name, head in zip(self.in_features, self.scale_heads)]
        return self.predictor(torch.cat(levels, dim=1))


def _narrowed(name: str, shape: ShapeSpec, channels: Sequence[int] | None) -> ShapeSpec:
    if not channels:
        return shape
    if len(channels) != 2 or not 0 <= channels[0] < channels[1] <= shape.channels:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.CHANNELS = {list(channels)}: must be [first, one past the last] of the "
            f"{shape.channels} channels of {name!r}, or [] for all of them"
        )
    return replace(shape, channels=channels[1] - channels[0])
