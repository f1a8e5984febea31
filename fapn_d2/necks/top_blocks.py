"""MODEL.NECK.TOP_BLOCK: what extends a pyramid above its coarsest level.

Detectron2's blocks, and those of mmdetection's one-stage detectors, which AugFPN's code adds its context map to.
"""

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import nn
from torch.nn import functional as F

from ..layers.conv import xavier_uniform
from .registry import Level

TOP_BLOCKS = ("none", "max_pool", "p6p7", "p6p7_context", "p6p7_relu_context")


class ContextP6P7(LastLevelP6P7):
    """P6 and P7 by 3x3 convolutions of stride 2, with the global mean of the context map added to P6.

    The addition is in AugFPN's code for one-stage detectors and not in its paper; P7 inherits it. Without a context
    this is mmdetection's own block. Parameters are named as in Detectron2's and initialised as in mmdetection.

    Args:
        in_channels, out_channels: of the map that P6 starts from, and of the pyramid.
        in_feature: name of that map.
        relu: whether P7 starts from relu(P6), as in Detectron2 and in AugFPN's FCOS, or from P6 (its RetinaNet).

    Shapes: (N,C,H,W), context (N,D,h,w) or None -> [(N,D,H/2,W/2), (N,D,H/4,W/4)], rounded up.
    """

    needs_context = True

    def __init__(self, in_channels: int, out_channels: int, in_feature: str, *, relu: bool):
        super().__init__(in_channels, out_channels, in_feature)
        self.relu = relu
        xavier_uniform(self.p6)
        xavier_uniform(self.p7)

    def forward(self, source: torch.Tensor, context: torch.Tensor | None = None) -> list[torch.Tensor]:
        p6 = self.p6(source)
        if context is not None:
            p6 = p6 + context.mean(dim=(2, 3), keepdim=True)
        return [p6, self.p7(F.relu(p6) if self.relu else p6)]


def build_top_block(neck: CfgNode, name: str, shapes: dict[str, ShapeSpec], levels: list[Level]) -> nn.Module | None:
    """The block ``name`` of TOP_BLOCKS over bottom-up maps of ``shapes`` and the pyramid ``levels``.

    Raises:
        ValueError: unknown name, or MODEL.NECK.TOP_BLOCK_IN is no map.
    """
    top = levels[-1]
    if name == "none":
        return None
    if name == "max_pool":
        block = LastLevelMaxPool()
        block.in_feature = f"p{top.stage}"  # Detectron2 has "p5" there, whatever the coarsest level is
        return block
    if name not in TOP_BLOCKS:
        raise ValueError(f"MODEL.NECK.TOP_BLOCK: unknown value {name!r}; allowed: {', '.join(TOP_BLOCKS)}")
    source = neck.TOP_BLOCK_IN or top.feature
    channels = {f: shape.channels for f, shape in shapes.items()}
    channels |= {f"p{level.stage}": level.out_channels for level in levels}
    if source not in channels:
        raise ValueError(f"MODEL.NECK.TOP_BLOCK_IN: there is no map {source!r}; allowed: {', '.join(channels)}")
    if name == "p6p7":
        return LastLevelP6P7(channels[source], top.out_channels, source)
    return ContextP6P7(channels[source], top.out_channels, source, relu="relu" in name)
