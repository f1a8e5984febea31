"""The high-resolution feature that kernels are applied to: PanopticFCN, Section 3.2, "Feature Encoder"."""

from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from torch import Tensor, nn

from .tower import Tower


class SemanticFPN(SemSegFPNHead):
    """Detectron2's semantic FPN head without its predictor: levels convolved, brought to stride 4, and summed.

    MODEL.SEM_SEG_HEAD describes it: IN_FEATURES, CONVS_DIM, COMMON_STRIDE and NORM are read.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.predictor = nn.Identity()

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Levels by name -> (N, CONVS_DIM, H, W)."""
        return self.layers(features)


class FeatureEncoder(nn.Module):
    """The encoded feature: hidden layers, whose input has coordinates, on the map of a `SemanticFPN`.

    Args:
        tower: hidden layers.

    Shapes: (N, in_channels, H, W) -> (N,E,H,W).
    """

    def __init__(self, tower: Tower):
        super().__init__()
        self.tower = tower

    def forward(self, x: Tensor) -> Tensor:
        return self.tower(x)
