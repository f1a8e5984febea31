"""The top-down loop that FPN, FaPN, SFNet's decoder and AugFPN's neck share.

Legend: N images, C_i bottom-up map of level i, P_i pyramid level i, D channels of the pyramid, H x W size of a map.
"""

from collections.abc import Sequence

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import nn

from .registry import Level
from .strategies.merge import Merge

#: What ``extra_outputs`` may name. "lateral": the map that goes into the merge, before any context is added, as
#: ``lateral<stage>``; "merged": the map that goes down to the next level, as ``merged<stage>``; "bottom_up": all
#: maps of the bottom-up network under its own names.
EXTRA_OUTPUTS = ("lateral", "merged", "bottom_up")


class TopDownPyramid(Backbone):
    """A feature pyramid whose parts are given: for each level, coarsest first,

    ``lateral`` turns C_i into D channels, ``merge`` joins it with the coarser level's merged map by means of ``align``
    and ``fuse``, ``output`` turns the merged map into P_i. What goes down to the next level is the merged map, not P_i.

    With laterals ``conv1x1``, ``nearest`` alignment, ``sum`` and outputs ``conv3x3`` this is Detectron2's ``FPN``: the
    same parameter names, the same numbers to the last bit. A map is resampled to the size of its finer neighbour, not
    by a factor, so any sizes work.

    Args:
        bottom_up: network whose ``output_shape()`` has the maps of ``levels``.
        levels: finest first; see ``describe_levels``.
        laterals, outputs: a module a level, finest first; None for a lateral that its merge does not use.
        aligns, fuses, merges: one for each level but the coarsest, finest first; None where the merge uses none.
        context: module C5 -> map of D channels that replaces the coarsest lateral (attribute ``replaces_lateral``) or
            is added to it.
        top_block: extends the pyramid; ``in_feature`` names a bottom-up map or a pyramid level, ``num_levels`` says
            how many levels its list has (Detectron2's ``LastLevelMaxPool``, ``LastLevelP6P7``); one whose attribute
            ``needs_context`` is true is called with the context map as well.
        extra_outputs: kinds of maps, of EXTRA_OUTPUTS, that the feature dict has besides in training mode: for
            auxiliary losses. They are not in ``output_shape()``, so that no head of Detectron2's takes them for levels.

    Raises:
        ValueError: if ``extra_outputs`` has a name that is not in EXTRA_OUTPUTS.

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
        extra_outputs: Sequence[str] = (),
    ):
        super().__init__()
        unknown = sorted(set(extra_outputs) - set(EXTRA_OUTPUTS))
        if unknown:
            raise ValueError(f"MODEL.NECK.EXTRA_OUTPUTS: unknown {unknown}; allowed: {', '.join(EXTRA_OUTPUTS)}")
        self.extra_outputs = tuple(extra_outputs)
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
        pyramid, extra = {}, {}
        merged = None
        context = self.context(maps[self.levels[-1].feature]) if self.context is not None else None
        for i in reversed(range(len(self.levels))):
            level = self.levels[i]
            c = maps[level.feature]
            lateral = self._part("lateral", level)
            fine = c if lateral is None else lateral(c)
            merged = self._coarsest(context, lateral, fine) if merged is None else self._merge(i, fine, merged)
            pyramid[f"p{level.stage}"] = self._part("output", level)(merged)
            if self.training:
                extra |= self._extra(level, fine if lateral is not None else None, merged)
        if self.training and "bottom_up" in self.extra_outputs:
            extra |= maps
        if self.top_block is not None:
            name = self.top_block.in_feature
            source = maps[name] if name in maps else pyramid[name]
            needs_context = getattr(self.top_block, "needs_context", False)
            added = self.top_block(source, context) if needs_context else self.top_block(source)
            pyramid.update(zip(self._out_features[len(self.levels) :], added))
        return {name: pyramid[name] for name in self._out_features} | extra

    def _coarsest(self, context: torch.Tensor | None, lateral: nn.Module | None, fine: torch.Tensor) -> torch.Tensor:
        if context is None:
            return fine
        return context if lateral is None else fine + context

    def _merge(self, i: int, fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        level = self.levels[i]
        return self.merges[i].apply(fine, coarse, self._part("align", level), self._part("fuse", level))

    def _extra(self, level: Level, lateral, merged) -> dict[str, torch.Tensor]:
        kinds = {"lateral": lateral, "merged": merged}
        return {
            f"{kind}{level.stage}": value
            for kind, value in kinds.items()
            if kind in self.extra_outputs and value is not None
        }

    def _part(self, part: str, level: Level) -> nn.Module | None:
        return getattr(self, f"fpn_{part}{level.stage}", None)

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }
