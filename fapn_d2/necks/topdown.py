"""The top-down loop that FPN, FaPN, SFNet's decoder and AugFPN's neck share.

Legend: N images, C_i bottom-up map of level i, P_i pyramid level i, D channels of the pyramid, H x W size of a map.
"""

from collections.abc import Mapping, Sequence

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import nn

from .parts import Align, Merge, TopBlock
from .registry import Level

#: What ``extra_outputs`` may name. "lateral": the map that goes into the merge, before any context is added, as
#: ``lateral<stage>``; "merged": the map that goes down to the next level, as ``merged<stage>``; "bottom_up": all
#: maps of the bottom-up network under their own names.
EXTRA_OUTPUTS = ("lateral", "merged", "bottom_up")


class PyramidShapes(dict[str, ShapeSpec]):
    """Shapes of a pyramid's levels by name, as Detectron2's heads read them, with those of the maps for training.

    A head gets ``backbone.output_shape()`` and not the backbone. So a head with training-only branches finds here what
    else the feature dict has in training mode.

    Args:
        levels: shapes of the levels.
        extra: shapes of the maps that the pyramid gives in training mode besides; see ``extra_output_shape``.
        withheld: name of each map that the pyramid could give as well -> the kind of EXTRA_OUTPUTS that it belongs to.
    """

    def __init__(self, levels: Mapping[str, ShapeSpec], *, extra: Mapping[str, ShapeSpec], withheld: Mapping[str, str]):
        super().__init__(levels)
        self.extra = dict(extra)
        self.withheld = dict(withheld)


class TopDownPyramid(Backbone):
    """A feature pyramid whose parts are given.

    For each level, coarsest first: ``lateral`` turns C_i into a map of D channels, ``merge`` joins this map with the
    merged map of the coarser level by means of ``align`` and ``fuse``, and ``output`` turns the result into P_i. The
    merged map goes down to the next level, not P_i. ``parts.py`` says what the pyramid expects of each part.

    With laterals ``conv1x1``, ``nearest`` alignment, ``sum`` and outputs ``conv3x3`` this is Detectron2's ``FPN``: the
    same parameter names, the same numbers to the last bit. A map is resampled to the size of its finer neighbour, not
    by a factor, so any sizes work.

    Args:
        bottom_up: network whose ``output_shape()`` has the maps of ``levels``.
        levels: finest first; see ``describe_levels``.
        laterals: one module per level, finest first; None where no lateral is used.
        outputs: one module per level, finest first.
        aligns: one part per level but the coarsest, finest first; None where the merge does not align.
        fuses: one module per level but the coarsest, finest first; None where the merge does not fuse.
        merges: one per level but the coarsest, finest first.
        context: module C5 -> map of D channels. It is added to the coarsest lateral; where that is None, it takes its
            place.
        top_block: extends the pyramid above its coarsest level; None adds no level.
        extra_outputs: kinds of maps, of EXTRA_OUTPUTS, that the feature dict also has in training mode, for auxiliary
            losses. They are in ``extra_output_shape()``, and not in ``output_shape()``, so that no head of Detectron2
            takes them for levels.

    Raises:
        ValueError: ``extra_outputs`` has a name that is not in EXTRA_OUTPUTS.

    Parameters are named ``bottom_up.*``, ``fpn_lateral{i}.*``, ``fpn_align{i}.*``, ``fpn_fuse{i}.*``,
    ``fpn_output{i}.*``, ``context.*`` and ``top_block.*`` with i the level's stage (2 for stride 4).
    """

    def __init__(
        self,
        bottom_up: Backbone,
        *,
        levels: list[Level],
        laterals: list[nn.Module | None],
        aligns: list[Align | None],
        fuses: list[nn.Module | None],
        merges: list[Merge],
        outputs: list[nn.Module],
        context: nn.Module | None = None,
        top_block: TopBlock | None = None,
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
        self._part_names = set()
        for i, level in enumerate(levels):
            for part, modules in parts.items():
                if i < len(modules) and modules[i] is not None:
                    name = _part_name(part, level)
                    self.add_module(name, modules[i])
                    self._part_names.add(name)
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
            lateral = self.part("lateral", level)
            fine = c if lateral is None else lateral(c)
            merged = self._coarsest(context, lateral, fine) if merged is None else self._merge(i, fine, merged)
            pyramid[f"p{level.stage}"] = self.part("output", level)(merged)
            if self.training:
                extra |= self._extra(level, fine if lateral is not None else None, merged)
        if self.training and "bottom_up" in self.extra_outputs:
            extra |= maps
        if self.top_block is not None:
            name = self.top_block.in_feature
            source = maps[name] if name in maps else pyramid[name]
            pyramid.update(zip(self._out_features[len(self.levels) :], self.top_block(source, context)))
        return {name: pyramid[name] for name in self._out_features} | extra

    def _coarsest(self, context: torch.Tensor | None, lateral: nn.Module | None, fine: torch.Tensor) -> torch.Tensor:
        if context is None:
            return fine
        return context if lateral is None else fine + context

    def _merge(self, i: int, fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        level = self.levels[i]
        return self.merges[i].apply(fine, coarse, self.part("align", level), self.part("fuse", level))

    def _extra(self, level: Level, lateral, merged) -> dict[str, torch.Tensor]:
        kinds = {"lateral": lateral, "merged": merged}
        return {
            f"{kind}{level.stage}": value
            for kind, value in kinds.items()
            if kind in self.extra_outputs and value is not None
        }

    def part(self, part: str, level: Level) -> nn.Module | None:
        """The module "lateral", "align", "fuse" or "output" of a level; None where the pyramid has none there."""
        name = _part_name(part, level)
        return self.get_submodule(name) if name in self._part_names else None

    def output_shape(self) -> PyramidShapes:
        """Channels and stride of every level by name, finest first."""
        levels = {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }
        withheld = {
            name: kind
            for kind in EXTRA_OUTPUTS
            if kind not in self.extra_outputs
            for name in self.extra_output_shape([kind])
        }
        return PyramidShapes(levels, extra=self.extra_output_shape(), withheld=withheld)

    def extra_output_shape(self, kinds: Sequence[str] | None = None) -> dict[str, ShapeSpec]:
        """Channels and stride, by name, of the maps that the feature dict also has in training mode.

        Args:
            kinds: the kinds of maps, of EXTRA_OUTPUTS; None: those that this pyramid gives.
        """
        kinds = self.extra_outputs if kinds is None else kinds
        shapes = {}
        for level in self.levels:
            shape = ShapeSpec(channels=level.out_channels, stride=level.stride)
            if "lateral" in kinds and self.part("lateral", level) is not None:
                shapes[f"lateral{level.stage}"] = shape
            if "merged" in kinds:
                shapes[f"merged{level.stage}"] = shape
        if "bottom_up" in kinds:
            shapes |= self.bottom_up.output_shape()
        return shapes


def _part_name(part: str, level: Level) -> str:
    return f"fpn_{part}{level.stage}"
