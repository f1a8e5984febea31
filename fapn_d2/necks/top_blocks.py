"""MODEL.NECK.TOP_BLOCK: what extends a pyramid above its coarsest level.

The blocks are Detectron2's, and mmdetection's for one-stage detectors, to which AugFPN's code adds its context map.
"""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import Tensor
from torch.nn import functional as F

from ..layers.conv import xavier_uniform
from .parts import TopBlock
from .registry import Level

TOP_BLOCKS = ("none", "max_pool", "p6p7", "p6p7_context", "p6p7_relu_context")


class MaxPool(LastLevelMaxPool, TopBlock):
    """Detectron2's P6 for RPN: every second pixel of the map ``in_feature``."""

    def __init__(self, in_feature: str):
        super().__init__()
        self.in_feature = in_feature  # Detectron2 has "p5" there, whatever the coarsest level is

    def forward(self, source: Tensor, context: Tensor | None = None) -> list[Tensor]:
        return super().forward(source)


class P6P7(LastLevelP6P7, TopBlock):
    """Detectron2's P6 and P7 for RetinaNet and FCOS: 3x3 convolutions of stride 2, with ReLU between them."""

    def forward(self, source: Tensor, context: Tensor | None = None) -> list[Tensor]:
        return super().forward(source)


class ContextP6P7(LastLevelP6P7, TopBlock):
    """P6 and P7 by 3x3 convolutions of stride 2, with the global mean of the context map added to P6.

    The addition is in AugFPN's code for one-stage detectors and not in its paper; P7 is computed from the sum. Without
    a context this is mmdetection's own block. Parameters are named as in Detectron2's block and initialised as in
    mmdetection.

    Args:
        in_channels: channels C of the map that P6 starts from.
        out_channels: channels D of the pyramid.
        in_feature: name of the map that P6 starts from.
        relu: True: P7 starts from relu(P6), as in Detectron2 and in AugFPN's FCOS; False: from P6, as in its RetinaNet.

    Shapes: (N,C,H,W), context (N,D,h,w) or None -> [(N,D,H/2,W/2), (N,D,H/4,W/4)], rounded up.
    """

    def __init__(self, in_channels: int, out_channels: int, in_feature: str, *, relu: bool):
        super().__init__(in_channels, out_channels, in_feature)
        self.relu = relu
        xavier_uniform(self.p6)
        xavier_uniform(self.p7)

    def forward(self, source: Tensor, context: Tensor | None = None) -> list[Tensor]:
        p6 = self.p6(source)
        if context is not None:
            p6 = p6 + context.mean(dim=(2, 3), keepdim=True)
        return [p6, self.p7(F.relu(p6) if self.relu else p6)]


def build_top_block(neck: CfgNode, name: str, shapes: dict[str, ShapeSpec], levels: list[Level]) -> TopBlock | None:
    """The top block that a name stands for.

    Args:
        neck: the node MODEL.NECK, of which TOP_BLOCK_IN is read.
        name: one of TOP_BLOCKS.
        shapes: channels and stride of the bottom-up maps.
        levels: the pyramid's levels, finest first.

    Raises:
        ValueError: unknown name, or MODEL.NECK.TOP_BLOCK_IN names a map that does not exist.
    """
    top = levels[-1]
    if name == "none":
        return None
    if name == "max_pool":
        return MaxPool(f"p{top.stage}")
    if name not in TOP_BLOCKS:
        raise ValueError(f"MODEL.NECK.TOP_BLOCK: unknown value {name!r}; allowed: {', '.join(TOP_BLOCKS)}")
    source = neck.TOP_BLOCK_IN or top.feature
    channels = {f: shape.channels for f, shape in shapes.items()}
    channels |= {f"p{level.stage}": level.out_channels for level in levels}
    if source not in channels:
        raise ValueError(f"MODEL.NECK.TOP_BLOCK_IN: there is no map {source!r}; allowed: {', '.join(channels)}")
    if name == "p6p7":
        return P6P7(channels[source], top.out_channels, source)
    return ContextP6P7(channels[source], top.out_channels, source, relu="relu" in name)
