"""DF1 and DF2: Li et al., "Partial Order Pruning: for Best Speed/Accuracy Trade-off in Neural Architecture Search",
CVPR 2019, the small bottom-up networks of SFNet. The sizes are those of SFNet's official code.
"""

from collections.abc import Sequence
from typing import NamedTuple

from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import ResNet
from torch import Tensor

from .residual import DilatedBasicBlock, conv3x3_norm_relu


class Stage(NamedTuple):
    """Basic blocks of one width; the first has the stride."""

    official: str  #: name in the official code
    blocks: int
    channels: int
    stride: int


#: The stages are named res2, res3, ... here, in this order.
DF1 = (
    Stage("stage2", 3, 64, 2),  # res2, stride 8
    Stage("stage3", 3, 128, 2),  # res3, stride 16, finest level of SFNet
    Stage("stage4", 3, 256, 2),  # res4, stride 32
    Stage("stage5", 1, 512, 1),  # res5, stride 32
)
DF2 = (
    Stage("stage2_1", 2, 64, 2),  # res2, stride 8
    Stage("stage2_2", 1, 128, 1),  # res3, stride 8, finest level of SFNet
    Stage("stage3_1", 10, 128, 2),  # res4, stride 16
    Stage("stage3_2", 1, 256, 1),  # res5, stride 16, second level
    Stage("stage4_1", 4, 256, 2),  # res6, stride 32
    Stage("stage4_2", 2, 512, 1),  # res7, stride 32, coarsest level
)


class DFStem(CNNBlockBase):
    """Two 3x3 convolutions of stride 2, to 32 and 64 channels, with norm and ReLU: (N,3,H,W) -> (N,64,H/4,W/4)."""

    def __init__(self, in_channels: int = 3, *, norm: str = "BN"):
        super().__init__(in_channels, 64, 4)
        self.conv1 = conv3x3_norm_relu(in_channels, 32, stride=2, norm=norm)
        self.conv2 = conv3x3_norm_relu(32, 64, stride=2, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class DFNet(ResNet):
    """Detectron2's ResNet with any number of stages; stages after the last requested map are not built.

    Args:
        stem: see ``DFStem``.
        stages: blocks of each stage.
        out_features: names of the maps to return, of "stem", "res2", "res3", ...
        freeze_at: as in Detectron2's ResNet: 1 freezes the stem, 2 also res2, ...

    Raises:
        ValueError: ``out_features`` is empty or has a name that is not a stage.
    """

    def __init__(self, stem: CNNBlockBase, stages: list[list[CNNBlockBase]], *, out_features, freeze_at: int = 0):
        # Detectron2 drops stages that no feature needs, but it knows four stages only. So they are dropped here.
        names = ["stem", *(f"res{i}" for i in range(2, 2 + len(stages)))]
        unknown = [name for name in out_features if name not in names]
        if unknown or not out_features:
            raise ValueError(f"MODEL.RESNETS.OUT_FEATURES = {list(out_features)}; allowed: {', '.join(names)}")
        super().__init__(stem, stages[: max(names.index(name) for name in out_features)], freeze_at=freeze_at)
        self._out_features = list(out_features)


def _build(table: Sequence[Stage], cfg: CfgNode, input_shape: ShapeSpec) -> DFNet:
    norm = cfg.MODEL.RESNETS.NORM
    stem = DFStem(input_shape.channels, norm=norm)
    channels, stages = stem.out_channels, []
    for stage in table:
        strides = [stage.stride] + [1] * (stage.blocks - 1)
        stages.append(
            ResNet.make_stage(
                DilatedBasicBlock,
                stage.blocks,
                in_channels=channels,
                out_channels=stage.channels,
                stride_per_block=strides,
                norm=norm,
            )
        )
        channels = stage.channels
    return DFNet(stem, stages, out_features=cfg.MODEL.RESNETS.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)


@BACKBONE_REGISTRY.register()
def build_df1_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> DFNet:
    """DF1. Reads MODEL.RESNETS.{NORM,OUT_FEATURES}, MODEL.BACKBONE.FREEZE_AT; SFNet's levels are res3, res4, res5."""
    return _build(DF1, cfg, input_shape)


@BACKBONE_REGISTRY.register()
def build_df2_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> DFNet:
    """DF2. Reads MODEL.RESNETS.{NORM,OUT_FEATURES}, MODEL.BACKBONE.FREEZE_AT; SFNet's levels are res3, res5, res7."""
    return _build(DF2, cfg, input_shape)
