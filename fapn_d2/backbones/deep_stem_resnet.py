"""ResNet with a stem of three 3x3 convolutions, SFNet's bottom-up network.

As in the official code of SFNet, and of PSPNet before it, the stem has 3 -> 64 -> 64 -> 128 channels, the stride of a
stage is in its first 3x3 convolution, and shortcuts are plain strided 1x1 convolutions. Parameters are named as in
Detectron2's DeepLab ResNet.
"""

from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import BottleneckBlock, ResNet
from torch import Tensor
from torch.nn import functional as F

from .residual import DilatedBasicBlock, conv3x3_norm_relu

#: Depth -> blocks in each of the four stages.
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
STAGES = ("res2", "res3", "res4", "res5")


class DeepStem(CNNBlockBase):
    """Three 3x3 convolutions, the first of stride 2, with norm and ReLU, then a 3x3 max-pooling of stride 2.

    Args:
        in_channels: number of channels of the image.
        out_channels: number of output channels of the last convolution; the first two have half as many.
        norm: name for Detectron2's ``get_norm``.
        ceil_mode: whether the pooling rounds sizes up, to 257 instead of 256 positions along a side of 1024 pixels.
            SFNet's code of 2019 does, and the paper's GFLOPs were counted on it; its later code does not.

    Shapes: image (N,3,H,W) -> (N,out_channels,H/4,W/4).
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 128, *, norm: str = "BN", ceil_mode: bool = False):
        super().__init__(in_channels, out_channels, 4)
        self.ceil_mode = ceil_mode
        half = out_channels // 2
        self.conv1 = conv3x3_norm_relu(in_channels, half, stride=2, norm=norm)
        self.conv2 = conv3x3_norm_relu(half, half, norm=norm)
        self.conv3 = conv3x3_norm_relu(half, out_channels, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3(self.conv2(self.conv1(x)))
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1, ceil_mode=self.ceil_mode)


@BACKBONE_REGISTRY.register()
def build_deep_stem_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """ResNet-18 to -152 with a deep stem; maps "stem" (stride 4) and "res2" to "res5".

    Reads MODEL.BACKBONE.FREEZE_AT and of MODEL.RESNETS: DEPTH, NORM, STEM_OUT_CHANNELS (128 in the papers),
    STEM_CEIL_MODE, RES2_OUT_CHANNELS (64 for 18 and 34, else 256), WIDTH_PER_GROUP, STRIDE_IN_1X1, OUT_FEATURES,
    OUTPUT_STRIDE, CONV2_DILATION.

    Raises:
        ValueError: an unknown depth, map or output stride, or a dilation list without exactly four entries.
    """
    resnets = cfg.MODEL.RESNETS
    if resnets.DEPTH not in BLOCKS:
        raise ValueError(f"MODEL.RESNETS.DEPTH = {resnets.DEPTH}; allowed: {', '.join(map(str, BLOCKS))}")
    unknown = [name for name in resnets.OUT_FEATURES if name not in ("stem", *STAGES)]
    if unknown or not resnets.OUT_FEATURES:
        raise ValueError(f"MODEL.RESNETS.OUT_FEATURES = {resnets.OUT_FEATURES}; allowed: stem, {', '.join(STAGES)}")
    strides, replaced, dilations = _strides_and_dilations(resnets.OUTPUT_STRIDE, list(resnets.CONV2_DILATION))
    stem = DeepStem(
        input_shape.channels, resnets.STEM_OUT_CHANNELS, norm=resnets.NORM, ceil_mode=resnets.STEM_CEIL_MODE
    )
    in_channels, stages = stem.out_channels, []
    for i, blocks in enumerate(BLOCKS[resnets.DEPTH]):
        out_channels = resnets.RES2_OUT_CHANNELS * 2**i
        options = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "norm": resnets.NORM,
            "stride_per_block": [strides[i]] + [1] * (blocks - 1),
            "dilation": dilations[i],
        }
        if resnets.DEPTH <= 34:
            options["first_dilation"] = replaced[i]
            stages.append(ResNet.make_stage(DilatedBasicBlock, blocks, **options))
        else:
            options |= {
                "bottleneck_channels": resnets.NUM_GROUPS * resnets.WIDTH_PER_GROUP * 2**i,
                "num_groups": resnets.NUM_GROUPS,
                "stride_in_1x1": resnets.STRIDE_IN_1X1,
            }
            stages.append(ResNet.make_stage(BottleneckBlock, blocks, **options))
        in_channels = out_channels
    return ResNet(stem, stages, out_features=list(resnets.OUT_FEATURES), freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)


def _strides_and_dilations(output_stride: int, conv2_dilation: list[int]) -> tuple[list[int], list[int], list[int]]:
    """Three lists with one entry per stage.

    They are the stride of the first block, the dilation that replaces strides left out under OUTPUT_STRIDE, and the
    dilation of the 3x3 convolutions (in basic blocks of the second one), which is multiplied by CONV2_DILATION.
    """
    if len(conv2_dilation) != len(STAGES):
        raise ValueError(f"MODEL.RESNETS.CONV2_DILATION = {conv2_dilation} needs an entry for each of {STAGES}")
    if output_stride not in (8, 16, 32):
        raise ValueError(f"MODEL.RESNETS.OUTPUT_STRIDE = {output_stride}; allowed: 8, 16, 32")
    replaced = [max(1, stride // output_stride) for stride in (4, 8, 16, 32)]
    strides = [1] + [2 if replaced[i] == 1 else 1 for i in (1, 2, 3)]
    return strides, replaced, [a * b for a, b in zip(replaced, conv2_dilation)]
