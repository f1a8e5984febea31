"""ShuffleNetV2 (Ma et al., ECCV 2018) as a bottom-up network: torchvision's layers under torchvision's names."""

import torchvision
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

#: Width multiplier -> channels of the stem, of the three stages and of the last 1x1 convolution.
CHANNELS = {
    0.5: (24, 48, 96, 192, 1024),
    1.0: (24, 116, 232, 464, 1024),
    1.5: (24, 176, 352, 704, 1024),
    2.0: (24, 244, 488, 976, 2048),
}
REPEATS = (4, 8, 4)
#: Map -> stride, in the order of computation. "stem" is after the max-pooling.
STRIDES = {"stem": 4, "stage2": 8, "stage3": 16, "stage4": 32, "conv5": 32}
NORMS = ("BN", "SyncBN", "FrozenBN")


class ShuffleNetV2(Backbone):
    """torchvision's network without its classifier, so that its ImageNet weights fit by name.

    Args:
        width: multiplier of the channels; see CHANNELS.
        out_features: names in STRIDES of the maps to return. Layers that none of these maps needs are not built.
        norm: "BN", "SyncBN" or "FrozenBN".
        ceil_mode: whether the max-pooling rounds sizes up.
        freeze_at: 1 freezes the stem, 2 also stage2, and so on.

    Raises:
        ValueError: an unknown width, norm or map.
    """

    def __init__(
        self,
        width: float = 1.5,
        *,
        out_features: list[str],
        norm: str = "BN",
        ceil_mode: bool = False,
        freeze_at: int = 0,
    ):
        super().__init__()
        if width not in CHANNELS:
            raise ValueError(f"MODEL.SHUFFLENETV2.WIDTH = {width}; allowed: {', '.join(map(str, CHANNELS))}")
        if norm not in NORMS:
            raise ValueError(f"MODEL.SHUFFLENETV2.NORM = {norm!r}; allowed: {', '.join(NORMS)}")
        unknown = [name for name in out_features if name not in STRIDES]
        if unknown or not out_features:
            raise ValueError(f"MODEL.SHUFFLENETV2.OUT_FEATURES = {list(out_features)}; allowed: {', '.join(STRIDES)}")
        network = torchvision.models.ShuffleNetV2(list(REPEATS), list(CHANNELS[width]))
        last = max(list(STRIDES).index(name) for name in out_features)
        names = ["conv1", *list(STRIDES)[1 : last + 1]]
        for i, name in enumerate(names):
            layer = getattr(network, name)
            self.add_module(name, _with_norm(layer, "FrozenBN" if i < freeze_at else norm))
            if i < freeze_at:
                layer.requires_grad_(False)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1, ceil_mode=ceil_mode)
        self._names = names
        self._out_features = list(out_features)
        self._out_feature_strides = {name: STRIDES[name] for name in out_features}
        channels = dict(zip(STRIDES, CHANNELS[width]))
        self._out_feature_channels = {name: channels[name] for name in out_features}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Image (N,3,H,W) -> the maps asked for by name."""
        maps = {}
        for name in self._names:
            x = getattr(self, name)(x)
            if name == "conv1":
                x = maps["stem"] = self.maxpool(x)
            else:
                maps[name] = x
        return {name: maps[name] for name in self._out_features}


def _with_norm(layer: nn.Module, norm: str) -> nn.Module:
    """``layer`` with its BatchNorm2d layers replaced by another norm with the same parameters."""
    if norm == "SyncBN":
        return nn.SyncBatchNorm.convert_sync_batchnorm(layer)
    if norm == "FrozenBN":
        return FrozenBatchNorm2d.convert_frozen_batchnorm(layer)
    return layer


@BACKBONE_REGISTRY.register()
def build_shufflenetv2_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ShuffleNetV2:
    """Reads MODEL.SHUFFLENETV2 and MODEL.BACKBONE.FREEZE_AT."""
    node = cfg.MODEL.SHUFFLENETV2
    return ShuffleNetV2(
        node.WIDTH,
        out_features=list(node.OUT_FEATURES),
        norm=node.NORM,
        ceil_mode=node.CEIL_MODE,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )
