"""What finer maps cost: Panoptic FPN's Figure 4, recomputed by counting.

Three ways to bring a ResNet-101 to an output of 1/32, 1/16, 1/8 or 1/4 of the image (Figure 5): dilation, a symmetric
decoder, FPN. The paper prints no point of the figure. Its text says: FPN at 1/4 costs as much as dilation at 1/16,
dilation at 1/8 about three times that, a symmetric decoder about twice FPN.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.layers import Conv2d
from detectron2.modeling.backbone import FPN, Backbone, ResNet
from detectron2.modeling.backbone.resnet import BasicStem, BottleneckBlock
from torch import Tensor, nn
from torch.nn import functional as F

from .complexity import count_flops

#: Of the networks, in the order of the figure's legend.
KINDS = ("FPN", "dilation", "symmetric decoder")
STRIDES = (32, 16, 8, 4)
_BLOCKS = {"res2": 3, "res3": 4, "res4": 23, "res5": 3}
_STAGE = {4: "res2", 8: "res3", 16: "res4", 32: "res5"}


@dataclass(frozen=True)
class Cost:
    """One point of the figure."""

    kind: str  #: one of KINDS
    stride: int  #: of the finest map of the output
    tera_macs: float  #: multiply-adds of convolutions / 10^12
    giga_activations: float  #: elements of the outputs of convolutions / 10^9


def resnet_101(stride: int = 32) -> ResNet:
    """MSRA's ResNet-101 (stride in the 1x1 convolution), whose last map has ``stride``.

    Dilation replaces the strides of res5, then res4, then res3, so that the receptive fields stay.
    """
    stages, now, dilation, width = [], 4, 1, 64
    for i, (name, blocks) in enumerate(_BLOCKS.items()):
        wanted = 1 if name == "res2" else 2
        step = wanted if now * wanted <= stride else 1
        dilation *= wanted // step
        now *= step
        stages.append(_stage(blocks, width, 256 * 2**i, step=step, dilation=dilation))
        width = 256 * 2**i
    return ResNet(BasicStem(norm="FrozenBN"), stages, out_features=list(_BLOCKS))


def fpn(stride: int) -> Backbone:
    """FPN with levels from 1/32 down to 1/``stride``: a 1x1 and a 3x3 convolution of 256 channels each."""
    levels = [name for s, name in _STAGE.items() if s >= stride]
    return FPN(resnet_101(), levels, 256)


class SymmetricDecoder(nn.Module):
    """The mirror image of the bottom-up pathway down to 1/``stride`` (Figure 5c): images (N,3,H,W) -> (N,C,h,w).

    Each stage has as many bottleneck blocks as the stage that it mirrors, with its width and scale, and starts with a
    projection as that does. Upsampling and the lateral sum cost no convolution. The paper does not describe the
    decoder further.
    """

    def __init__(self, stride: int):
        super().__init__()
        self.bottom_up = resnet_101()
        shapes = self.bottom_up.output_shape()
        self.names = [name for s, name in reversed(_STAGE.items()) if s >= stride]
        self.stages = nn.ModuleList()
        width = shapes["res5"].channels
        for name in self.names:
            out = shapes[name].channels
            stage = nn.Sequential(*_stage(_BLOCKS[name], width, out, step=1))
            if stage[0].shortcut is None:
                stage[0].shortcut = Conv2d(width, out, kernel_size=1, bias=False)
            self.stages.append(stage)
            width = out

    def forward(self, images: Tensor) -> Tensor:
        maps = self.bottom_up(images)
        x = maps["res5"]
        for name, stage in zip(self.names, self.stages):
            x = stage(F.interpolate(x, size=maps[name].shape[-2:])) + maps[name]
        return x


def _stage(blocks: int, width: int, out: int, *, step: int, dilation: int = 1) -> list[nn.Module]:
    return ResNet.make_stage(
        BottleneckBlock,
        blocks,
        stride_per_block=[step, *[1] * (blocks - 1)],
        in_channels=width,
        out_channels=out,
        bottleneck_channels=out // 4,
        stride_in_1x1=True,
        dilation=dilation,
        norm="FrozenBN",
    )


_BUILDERS = {"FPN": fpn, "dilation": resnet_101, "symmetric decoder": SymmetricDecoder}


def resolution_costs(size: tuple[int, int] = (1024, 2048), strides: Sequence[int] = STRIDES) -> list[Cost]:
    """Every point of the figure, counted on the meta device.

    Args:
        size: height and width of the image in pixels; the paper says 2 megapixels.
        strides: which of STRIDES.

    Raises:
        ValueError: a side is not a positive multiple of 32.
    """
    if any(side < 1 or side % 32 for side in size):
        raise ValueError(f"the sides of the image must be positive multiples of 32 pixels, got {size[0]} x {size[1]}")
    costs = []
    for kind in KINDS:
        for stride in strides:
            with torch.device("meta"):
                network, image = _BUILDERS[kind](stride).eval(), torch.zeros(1, 3, *size)
            counted = count_flops(network, image, convention="conv_macs")
            costs.append(Cost(kind, stride, counted.total / 1e12, counted.activations / 1e9))
    return costs


def table(costs: Sequence[Cost]) -> str:
    """A Markdown table: a row per kind of network, a column per output scale, "multiply-adds / activations"."""
    strides = sorted({cost.stride for cost in costs}, reverse=True)
    lines = [f"| T / G | {' | '.join(f'1/{s}' for s in strides)} |", f"|{'---|' * (len(strides) + 1)}"]
    for kind in dict.fromkeys(cost.kind for cost in costs):
        cells = {c.stride: f"{c.tera_macs:.3f} / {c.giga_activations:.3f}" for c in costs if c.kind == kind}
        lines.append(f"| {kind} | {' | '.join(cells[s] for s in strides)} |")
    return "\n".join(lines) + "\n"
