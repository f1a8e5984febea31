"""The top-down loop that FPN, FaPN, SFNet's decoder and AugFPN's neck share.

Legend: N images, C_i bottom-up map of level i, P_i pyramid level i, D channels of the pyramid, H x W size of a map.
"""

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import nn

from .registry import Level
from .strategies.merge import Merge


class TopDownPyramid(Backbone):
    """A feature pyramid whose parts are given: for each level, coarsest first,

    ``lateral`` turns C_i into D channels, ``merge`` joins it with the coarser level's merged map by means of ``align``
    and ``fuse``, ``output`` turns the merged map into P_i. The merged map, not P_i, is what goes down to the next level.

    With laterals ``conv1x1``, ``nearest`` alignment, ``sum`` and outputs ``conv3x3`` this is Detectron2's ``FPN``: the
    same parameter names, the same numbers to the last bit. A map is resampled to the size of its finer neighbour, not by
    a factor, so any sizes work.

    Args:
        bottom_up: network whose ``output_shape()`` has the maps of ``levels``.
        levels: finest first; see ``describe_levels``.
        laterals, outputs: a module a level, finest first; None for a lateral that its merge does not use.
        aligns, fuses, merges: one for each level but the coarsest, finest first; None where the merge uses none.
        context: module C5 -> map of D channels that replaces the coarsest lateral (attribute ``replaces_lateral``) or is
            added to it.
        top_block: extends the pyramid; ``in_feature`` names a bottom-up map or a pyramid level, ``num_levels`` how many
            levels its list has (Detectron2's ``LastLevelMaxPool``, ``LastLevelP6P7``).

    Parameters are named ``bottom_up.*``, ``fpn_lateral{i}.*``, ``fpn_align{i}.*``, ``fpn_fuse{i}.*``,
    ``fpn_output{i}.*``, ``context.*`` and ``top_block.*`` with i the level's stage (2 for stride 4).
    """

    def __init__(
        self,
        bottom_up: Backbone,
        *,
        levels: list[Level],
        laterals: list[nn.Module | None],
        aligns: list[nn.Module | None],
        fuses: list[nn.Module | None],
        merges: list[Merge],
        outputs: list[nn.Module],
        context: nn.Module | None = None,
        top_block: nn.Module | None = None,
    ):
        super().__init__()
        self.levels = tuple(levels)
        self.merges = tuple(merges)
        parts = {"lateral": laterals, "output": outputs, "align": aligns, "fuse": fuses}
        for i, level in enumerate(levels):
            for part, modules in parts.items():
                if i < len(modules) and modules[i] is not None:
                    self.add_module(f"fpn_{part}{level.stage}", modules[i])
        self.context = context
        self.top_block = top_block
        self.bottom_up = bottom_up

        strides = {f"p{level.stage}": level.stride for level in levels}
        for k in range(1, 1 + (top_block.num_levels if top_block is not None else 0)):
            strides[f"p{levels[-1].stage + k}"] = levels[-1].stride * 2**k
        self._out_features = list(strides)
        self._out_feature_strides = strides
        self._out_feature_channels = dict.fromkeys(strides, levels[-1].out_channels)

    @property
    def size_divisibility(self) -> int:
        """Stride of the coarsest bottom-up map, in pixels, as Detectron2's FPN has it; smaller inputs work as well."""
        return self.levels[-1].stride

    @property
    def padding_constraints(self) -> dict[str, int]:
        return {"size_divisibility": self.size_divisibility}

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Image (N,3,H,W) -> {"p2": (N,D,H/4,W/4), "p3": ...}, finest level first."""
        return self.top_down(self.bottom_up(x))

    def top_down(self, maps: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Bottom-up maps by name -> pyramid levels by name; ``forward`` without the bottom-up network."""
        pyramid = {}
        merged = self._coarsest(maps[self.levels[-1].feature])
        pyramid[self._name(-1)] = self._part("output", -1)(merged)
        for i in reversed(range(len(self.levels) - 1)):
            fine = maps[self.levels[i].feature]
            merge = self.merges[i]
            if merge.uses_lateral:
                fine = self._part("lateral", i)(fine)
            merged = merge.apply(fine, merged, self._part("align", i), self._part("fuse", i))
            pyramid[self._name(i)] = self._part("output", i)(merged)
        if self.top_block is not None:
            source = self.top_block.in_feature
            extra = self.top_block(maps[source] if source in maps else pyramid[source])
            pyramid.update(zip(self._out_features[len(self.levels) :], extra))
        return {name: pyramid[name] for name in self._out_features}

    def _coarsest(self, c5: torch.Tensor) -> torch.Tensor:
        lateral = self._part("lateral", -1)
        if self.context is None:
            return lateral(c5)
        context = self.context(c5)
        return context if lateral is None else lateral(c5) + context

    def _name(self, i: int) -> str:
        return f"p{self.levels[i].stage}"

    def _part(self, part: str, i: int) -> nn.Module | None:
        return getattr(self, f"fpn_{part}{self.levels[i].stage}", None)

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }
