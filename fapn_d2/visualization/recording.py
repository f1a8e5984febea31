"""What the alignments of a pyramid do to one image: maps before and after, and how far samples move.

Legend: C channels, H x W size of the finer map.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from ..necks.parts import Align
from ..necks.registry import Level
from ..necks.topdown import TopDownPyramid


@dataclass(frozen=True)
class Alignment:
    """One alignment of the first image of a batch, from level ``stage + 1`` to ``stage``."""

    stage: int  #: of the finer level
    stride: int  #: input pixels per pixel of the finer map
    before: Tensor  #: (C,H,W), the coarse map upsampled: P^u of FaPN
    after: Tensor  #: (C,H,W), the coarse map aligned: P^u with a hat
    displacement: Tensor | None  #: (2,H,W), (dy, dx) in input pixels; None where nothing moves (FPN)
    field: str = "offsets"  #: what the displacement is called in its paper

    @property
    def title(self) -> str:
        return f"P{self.stage + 1} to P{self.stage}"


def pyramid_of(model: nn.Module) -> TopDownPyramid:
    """The pyramid of a model.

    Raises:
        ValueError: the model has none, or has one without alignments.
    """
    pyramid = next((m for m in model.modules() if isinstance(m, TopDownPyramid)), None)
    if pyramid is None:
        raise ValueError(
            f"{type(model).__name__} has no pyramid of fapn_d2; set MODEL.BACKBONE.NAME to 'build_pyramid_backbone' or "
            "to another builder of this package"
        )
    if not _aligns(pyramid):
        raise ValueError(
            f"the pyramid over {[level.feature for level in pyramid.levels]} joins no levels: no alignment"
        )
    return pyramid


@contextlib.contextmanager
def recording(model: nn.Module) -> Iterator[list[Alignment]]:
    """Within the context, each forward pass fills the list that it yields: one entry per alignment, coarsest first.

    Raises:
        ValueError: see :func:`pyramid_of`.
    """
    pyramid = pyramid_of(model)
    records: list[Alignment] = []
    handles = [pyramid.register_forward_pre_hook(lambda *_: records.clear())]
    for level, align in _aligns(pyramid):
        handles.append(_watch(level, align, records))
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()


def _aligns(pyramid: TopDownPyramid) -> list[tuple[Level, Align]]:
    parts = ((level, pyramid.part("align", level)) for level in pyramid.levels)
    return [(level, align) for level, align in parts if align is not None]


def _watch(level: Level, align: Align, records: list[Alignment]):
    """Add a record at each call of one alignment; returns the handle of the hook."""

    def record(align: Align, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        fine, coarse = (t[:1].detach() for t in inputs)
        moved = align.displacement(fine, coarse)
        records.append(
            Alignment(
                stage=level.stage,
                stride=level.stride,
                before=align.upsample(fine, coarse)[0].detach().float().cpu(),
                after=output[0].detach().float().cpu(),
                displacement=None if moved is None else moved[0].detach().float().cpu() * level.stride,
                field=align.field,
            )
        )

    return align.register_forward_hook(record)
