"""Transformer with positions that are added in every layer: Carion et al., "End-to-End Object Detection with
Transformers", ECCV 2020, Section 3.2 and Appendix A.4, as MaskFormer (Cheng et al., NeurIPS 2021) uses it.

Letters: N images, Q queries, S positions of the memory, D channels, L layers.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sine_positions(
    height: int, width: int, channels: int, *, device: torch.device | None = None, temperature: float = 10000.0
) -> Tensor:
    """(1, channels, height, width) sine code of a grid: the first half of the channels for y, the second for x.

    Row r of H, counted from 1, has y = 2 pi r / H. Channel i of a half is sin (even i) or cos (odd i) of
    y / temperature^(2 floor(i / 2) / half). The code is computed in float32 in every precision of the network, because
    networks were trained with these numbers.

    Raises:
        ValueError: ``channels`` is not a multiple of 4.
    """
    if channels % 4:
        raise ValueError(f"sine and cosine of y and x need a multiple of 4 channels, got {channels}")
    half = channels // 2
    frequency = torch.arange(half, dtype=torch.float32, device=device)
    frequency = temperature ** (2 * torch.div(frequency, 2, rounding_mode="floor") / half)

    def code(length: int) -> Tensor:
        steps = torch.arange(1, length + 1, dtype=torch.float32, device=device)
        angle = (steps / (steps[-1:] + 1e-6) * (2 * math.pi))[:, None] / frequency
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=2).flatten(1)

    y = code(height).T[:, :, None].expand(half, height, width)
    x = code(width).T[:, None, :].expand(half, height, width)
    return torch.cat([y, x])[None]


class Attention(nn.MultiheadAttention):
    """PyTorch's multi-head attention, batch first. It returns the attended values alone, without averaged weights."""

    def __init__(self, channels: int, heads: int, dropout: float):
        super().__init__(channels, heads, dropout=dropout, batch_first=True)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(N,Q,D), (N,S,D), (N,S,D) -> (N,Q,D)."""
        return super().forward(query, key, value, need_weights=False)[0]


class _Layer(nn.Module):
    """The base class of encoder and decoder layers: residual branches with dropout and a norm, and the two-layer MLP.

    Args:
        channels: the number of channels D.
        heads: the number of heads of every attention; divides D.
        hidden: the number of channels between the two linear layers.
        dropout: the dropout probability of attention weights, hidden units and branches.
        pre_norm: whether a branch normalises its input; otherwise the sum is normalised.
    """

    num_norms: int

    def __init__(self, channels: int, *, heads: int, hidden: int, dropout: float, pre_norm: bool):
        super().__init__()
        self.self_attn = Attention(channels, heads, dropout)
        self.linear1 = nn.Linear(channels, hidden)
        self.linear2 = nn.Linear(hidden, channels)
        for i in range(1, self.num_norms + 1):
            self.add_module(f"norm{i}", nn.LayerNorm(channels))
        self.dropout = nn.Dropout(dropout)
        self.pre_norm = pre_norm

    def _branch(self, x: Tensor, norm: nn.Module, branch) -> Tensor:
        if self.pre_norm:
            return x + self.dropout(branch(norm(x)))
        return norm(x + self.dropout(branch(x)))

    def _self_attention(self, x: Tensor, positions: Tensor) -> Tensor:
        placed = x + positions
        return self.self_attn(placed, placed, x)

    def _mlp(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(F.relu(self.linear1(x))))


class EncoderLayer(_Layer):
    """Self-attention with positions at queries and keys, then an MLP: (N,S,D), (N,S,D) -> (N,S,D)."""

    num_norms = 2

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        x = self._branch(x, self.norm1, lambda x: self._self_attention(x, positions))
        return self._branch(x, self.norm2, self._mlp)


class DecoderLayer(_Layer):
    """Self-attention of the queries, attention to the memory, MLP; positions never enter the values."""

    num_norms = 3

    def __init__(self, channels: int, *, heads: int, hidden: int, dropout: float, pre_norm: bool):
        super().__init__(channels, heads=heads, hidden=hidden, dropout=dropout, pre_norm=pre_norm)
        self.multihead_attn = Attention(channels, heads, dropout)

    def forward(self, x: Tensor, memory: Tensor, *, query_positions: Tensor, memory_positions: Tensor) -> Tensor:
        """x and its positions (N,Q,D), memory and its positions (N,S,D) -> (N,Q,D)."""
        keys = memory + memory_positions
        x = self._branch(x, self.norm1, lambda x: self._self_attention(x, query_positions))
        x = self._branch(x, self.norm2, lambda x: self.multihead_attn(x + query_positions, keys, memory))
        return self._branch(x, self.norm3, self._mlp)


class Encoder(nn.Module):
    """Layers in sequence, with a final norm if the layers do not normalise their sums (``pre_norm``)."""

    def __init__(self, channels: int, num_layers: int, *, heads: int, hidden: int, dropout: float, pre_norm: bool):
        super().__init__()
        options = {"heads": heads, "hidden": hidden, "dropout": dropout, "pre_norm": pre_norm}
        self.layers = nn.ModuleList(EncoderLayer(channels, **options) for _ in range(num_layers))
        self.norm = nn.LayerNorm(channels) if pre_norm else None

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """(N,S,D), (N,S,D) -> (N,S,D)."""
        for layer in self.layers:
            x = layer(x, positions)
        return x if self.norm is None else self.norm(x)


class Decoder(nn.Module):
    """Layers in sequence. One shared norm is applied to the output of each layer."""

    def __init__(self, channels: int, num_layers: int, *, heads: int, hidden: int, dropout: float, pre_norm: bool):
        super().__init__()
        options = {"heads": heads, "hidden": hidden, "dropout": dropout, "pre_norm": pre_norm}
        self.layers = nn.ModuleList(DecoderLayer(channels, **options) for _ in range(num_layers))
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, memory: Tensor, *, query_positions: Tensor, memory_positions: Tensor) -> list[Tensor]:
        """As :class:`DecoderLayer` -> the normalised states (N,Q,D) after each layer, first layer first."""
        states = []
        for layer in self.layers:
            x = layer(x, memory, query_positions=query_positions, memory_positions=memory_positions)
            states.append(self.norm(x))
        return states


class Transformer(nn.Module):
    """Queries that start at zero, with learnt positions, attend to a map.

    Args:
        channels: the number of channels D.
        heads: the number of heads of every attention.
        hidden: the number of hidden channels of the MLPs.
        dropout: the dropout probability.
        encoder_layers: the number of encoder layers for the map; 0: no encoder.
        decoder_layers: the number of decoder layers L.
        pre_norm: see :class:`Encoder`.

    Matrices have Glorot and Bengio's uniform initialisation.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int = 8,
        hidden: int = 2048,
        dropout: float = 0.1,
        encoder_layers: int = 0,
        decoder_layers: int = 6,
        pre_norm: bool = False,
    ):
        super().__init__()
        options = {"heads": heads, "hidden": hidden, "dropout": dropout, "pre_norm": pre_norm}
        self.encoder = Encoder(channels, encoder_layers, **options) if encoder_layers else None
        self.decoder = Decoder(channels, decoder_layers, **options)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, memory: Tensor, positions: Tensor, query_positions: Tensor) -> list[Tensor]:
        """Map (N,D,h,w), its positions (1,D,h,w), learnt positions (Q,D) -> L states (N,Q,D), first layer first."""
        memory = memory.flatten(2).transpose(1, 2)
        positions = positions.to(memory.dtype).flatten(2).transpose(1, 2)
        queries = query_positions.to(memory.dtype).expand(len(memory), -1, -1)
        if self.encoder is not None:
            memory = self.encoder(memory, positions)
        start = torch.zeros_like(queries)
        return self.decoder(start, memory, query_positions=queries, memory_positions=positions)
