"""Initialisations that several layers share."""

from torch import nn


def xavier_uniform(conv: nn.Module) -> None:
    """mmdetection's: weights uniform in +-sqrt(6 / (fan_in + fan_out)), biases 0.

    Detectron2's ``c2_xavier_fill`` is uniform in +-sqrt(3 / fan_in): the same where a convolution keeps its channels.
    """
    nn.init.xavier_uniform_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
