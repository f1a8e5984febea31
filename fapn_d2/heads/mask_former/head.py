"""MaskFormer's head: pixel decoder and transformer decoder side by side on bottom-up maps.

Cheng et al., NeurIPS 2021, Figure 2. Letters: N images, Q queries, K classes, L layers, h x w = H/4 x W/4.
"""

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from .decoder import TransformerPredictor
from .pixel_decoder import build_pixel_decoder


@SEM_SEG_HEADS_REGISTRY.register()
class MaskFormerHead(nn.Module):
    """Bottom-up maps -> classes and masks of queries.

    The pyramid and the transformer are joined by one product only: the mask logits of a query are the products of its
    vector with the embedding of every pixel. The transformer reads a bottom-up map, not a pyramid level.

    Args:
        pixel_decoder: a module from maps by name to pixel embeddings (N, E, h, w).
        predictor: a module from (map, pixel embeddings) to class logits and mask logits.
        in_feature: the name of the map that the transformer reads.
    """

    @configurable
    def __init__(self, *, pixel_decoder: nn.Module, predictor: TransformerPredictor, in_feature: str):
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor
        self.in_feature = in_feature

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec], *, num_classes: int | None = None) -> dict:
        name = cfg.MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE
        if name not in input_shape:
            raise ValueError(
                f"MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE = {name!r}: the bottom-up network gives {list(input_shape)}"
            )
        num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES if num_classes is None else num_classes
        return {
            "pixel_decoder": build_pixel_decoder(cfg, input_shape),
            "predictor": TransformerPredictor(cfg, input_shape[name].channels, num_classes=num_classes),
            "in_feature": name,
        }

    def forward(self, features: dict[str, Tensor], *, last_only: bool = False) -> tuple[Tensor, Tensor]:
        """Maps by name -> class logits (L, N, Q, K + 1) and mask logits (L, N, Q, h, w), first layer first.

        With ``last_only``, L is 1: only the last layer is returned.
        """
        pixels = self.pixel_decoder(features)
        return self.predictor(features[self.in_feature], pixels, last_only=last_only)
