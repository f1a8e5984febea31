"""The positions of objects and regions: PanopticFCN, Section 3.1, "Position Head"."""

from torch import Tensor, nn

from .tower import Tower, predictor


class PositionHead(nn.Module):
    """Logits of object centres and of regions; the levels share all weights.

    Args:
        tower: the hidden layers.
        channels: the number of output channels of ``tower``.
        num_things: the number of thing classes K.
        num_stuff: the number of stuff classes S.
        bias: the initial bias of both predictors; -2.19 gives every position a score of 0.1.

    Shapes: one map (N, in_channels, h, w) per level -> center logits (N,K,h,w) and region logits (N,S,h,w) per level.
    """

    def __init__(self, tower: Tower, channels: int, *, num_things: int, num_stuff: int, bias: float):
        super().__init__()
        self.tower = tower
        self.center = predictor(channels, num_things, bias=bias)
        self.region = predictor(channels, num_stuff, bias=bias)

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        hidden = [self.tower(x) for x in features]
        return [self.center(x) for x in hidden], [self.region(x) for x in hidden]
