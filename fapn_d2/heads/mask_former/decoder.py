"""MaskFormer's transformer decoder: queries attend to a map and become class logits and mask vectors.

Cheng et al., NeurIPS 2021, Section 3.3. Letters: N images, Q queries, K classes, L layers, D channels, E channels of
the pixel embedding, h x w its size.
"""

from itertools import pairwise

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d
from torch import Tensor, nn
from torch.nn import functional as F

from ...layers.transformer import Transformer, sine_positions


class MLP(nn.Module):
    """Linear layers with ReLU between them: (..., C) -> (..., E)."""

    def __init__(self, in_channels: int, hidden: int, out_channels: int, num_layers: int):
        super().__init__()
        widths = [in_channels, *[hidden] * (num_layers - 1), out_channels]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x))
        return last(x)


class TransformerPredictor(nn.Module):
    """Classes and masks of all queries, after each layer.

    Args:
        in_channels: the number of channels of the map that the queries attend to.
        num_classes: the number of classes K. The last of K + 1 logits is "no object".
        num_queries: the number of queries Q.
        mask_channels: the number of channels E of the pixel embedding.
        channels: the number of channels D.
        project: whether the map goes through a 1x1 convolution even if it has D channels already.
        **transformer: the options of :class:`Transformer`.

    Parameters are named as in the official code.
    """

    @configurable
    def __init__(
        self,
        in_channels: int,
        *,
        num_classes: int,
        num_queries: int = 100,
        mask_channels: int = 256,
        channels: int = 256,
        project: bool = False,
        **transformer,
    ):
        super().__init__()
        self.transformer = Transformer(channels, **transformer)
        self.query_embed = nn.Embedding(num_queries, channels)
        if in_channels != channels or project:
            self.input_proj = Conv2d(in_channels, channels, kernel_size=1)
            weight_init.c2_xavier_fill(self.input_proj)
        else:
            self.input_proj = nn.Identity()
        self.class_embed = nn.Linear(channels, num_classes + 1)
        self.mask_embed = MLP(channels, channels, mask_channels, 3)

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int, *, num_classes: int) -> dict:
        node = cfg.MODEL.MASK_FORMER
        return {
            "in_channels": in_channels,
            "num_classes": num_classes,
            "num_queries": node.NUM_OBJECT_QUERIES,
            "mask_channels": cfg.MODEL.SEM_SEG_HEAD.MASK_DIM,
            "channels": node.HIDDEN_DIM,
            "project": node.ENFORCE_INPUT_PROJ,
            "heads": node.NHEADS,
            "hidden": node.DIM_FEEDFORWARD,
            "dropout": node.DROPOUT,
            "encoder_layers": node.ENC_LAYERS,
            "decoder_layers": node.DEC_LAYERS,
            "pre_norm": node.PRE_NORM,
        }

    def states(self, x: Tensor) -> Tensor:
        """Map (N,C,h',w') -> (L,N,Q,D), first layer first."""
        positions = sine_positions(*x.shape[-2:], self.query_embed.embedding_dim, device=x.device)
        return torch.stack(self.transformer(self.input_proj(x), positions, self.query_embed.weight))

    def forward(self, x: Tensor, pixels: Tensor, *, last_only: bool = False) -> tuple[Tensor, Tensor]:
        """Predict.

        Args:
            x: the map (N, C, h', w') that the queries attend to.
            pixels: the embeddings of pixels (N, E, h, w).
            last_only: whether to return only the last layer.

        Returns:
            Class logits (L, N, Q, K + 1) and mask logits (L, N, Q, h, w), first layer first; L is 1 with ``last_only``.
        """
        states = self.states(x)
        states = states[-1:] if last_only else states
        vectors = self.mask_embed(states)
        # One product of all layers: (N, L Q, E) x (N, E, h w).
        layers, images, queries, _ = vectors.shape
        masks = vectors.transpose(0, 1).flatten(1, 2) @ pixels.flatten(2)
        masks = masks.view(images, layers, queries, *pixels.shape[-2:]).transpose(0, 1)
        return self.class_embed(states), masks
