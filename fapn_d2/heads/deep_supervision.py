"""Deep supervision of a semantic decoder: a small classifier with its own loss on each of several inner maps.

SFNet, Section 3.3, "Cascaded Deeply Supervised Learning". Legend: N images, C channels, H x W size of a map, K classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec
from torch import Tensor, nn

from ..layers.conv import conv_norm_relu
from ..layers.losses import ohem_cross_entropy, pixel_cross_entropy
from ..necks.topdown import PyramidShapes

LOSSES = ("cross_entropy", "ohem")


@dataclass(frozen=True)
class Supervision:
    """One supervised map."""

    feature: str  #: its name in the feature dict
    in_channels: int
    channels: int  #: of the hidden convolution
    weight: float  #: of the loss
    loss: Callable[[Tensor, Tensor], Tensor]  #: (logits (N,K,H,W), target (N,H,W)) -> scalar


class AuxiliaryClassifier(nn.Module):
    """3x3 convolution with bias, norm, ReLU, dropout of channels, 1x1 to K classes: (N,C,H,W) -> (N,K,H,W)."""

    def __init__(self, in_channels: int, channels: int, num_classes: int, *, norm: str = "BN", dropout: float = 0.1):
        super().__init__()
        self.conv = conv_norm_relu(in_channels, channels, kernel_size=3, norm=norm, bias=True)
        self.dropout = nn.Dropout2d(dropout)
        self.predictor = Conv2d(channels, num_classes, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.predictor(self.dropout(self.conv(x)))


def loss_from_config(name: str, cfg: CfgNode) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss "cross_entropy" or "ohem" with the numbers of MODEL.SEM_SEG_HEAD; ValueError for another name."""
    head = cfg.MODEL.SEM_SEG_HEAD
    if name == "cross_entropy":
        return partial(pixel_cross_entropy, ignore_value=head.IGNORE_VALUE)
    if name == "ohem":
        return partial(
            ohem_cross_entropy,
            ignore_value=head.IGNORE_VALUE,
            threshold=head.OHEM.THRESHOLD,
            keep_fraction=head.OHEM.KEEP_FRACTION,
            min_kept=head.OHEM.MIN_KEPT,
            min_kept_per_image=head.OHEM.MIN_KEPT_PER_IMAGE,
        )
    raise ValueError(f"MODEL.SEM_SEG_HEAD: unknown loss {name!r}; allowed: {', '.join(LOSSES)}")


def supervision_from_config(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> list[Supervision]:
    """What MODEL.SEM_SEG_HEAD.DEEP_SUPERVISION asks for.

    Args:
        cfg: Detectron2's config.
        input_shape: ``output_shape()`` of the backbone. That of a pyramid also has the shapes of its maps for training.

    Raises:
        ValueError: a list of another length than FEATURES, an unknown loss, or a map that does not exist.
    """
    node = cfg.MODEL.SEM_SEG_HEAD.DEEP_SUPERVISION
    features = list(node.FEATURES)
    channels_in = [_channels(feature, input_shape) for feature in features]
    weights = _per_feature(node, "WEIGHTS", default=1.0)
    losses = _per_feature(node, "LOSSES", default=cfg.MODEL.SEM_SEG_HEAD.LOSS)
    channels = _per_feature(node, "CHANNELS", default=0)
    return [
        Supervision(
            features[i], channels_in[i], channels[i] or channels_in[i], weights[i], loss_from_config(losses[i], cfg)
        )
        for i in range(len(features))
    ]


def _per_feature(node: CfgNode, key: str, *, default) -> list:
    values = list(node[key]) or [default] * len(node.FEATURES)
    if len(values) != len(node.FEATURES):
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.DEEP_SUPERVISION.{key} = {values} needs an entry for each of FEATURES = "
            f"{list(node.FEATURES)}, or none"
        )
    return values


def _channels(feature: str, input_shape: Mapping[str, ShapeSpec]) -> int:
    shapes, withheld = dict(input_shape), {}
    if isinstance(input_shape, PyramidShapes):
        shapes |= input_shape.extra
        withheld = input_shape.withheld
    if feature in shapes:
        return shapes[feature].channels
    key = "MODEL.SEM_SEG_HEAD.DEEP_SUPERVISION.FEATURES"
    if feature in withheld:
        raise ValueError(
            f"{key} names the map {feature!r}, which is there only if MODEL.NECK.EXTRA_OUTPUTS has "
            f"{withheld[feature]!r}; add it"
        )
    raise ValueError(f"{key} names the map {feature!r}, which does not exist; available maps: {', '.join(shapes)}")
