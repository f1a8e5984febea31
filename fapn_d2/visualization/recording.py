"""What the alignments of a pyramid do to one image: maps before and after, and how far samples move.

Legend: C channels, H x W size of the finer map, G offset groups, K taps of the deformable convolution.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..layers.resize import resize_to
from ..necks import TopDownPyramid


@dataclass(frozen=True)
class Alignment:
    """One alignment of the first image of a batch, from level ``stage + 1`` to ``stage``."""

    stage: int  #: of the finer level
    stride: int  #: input pixels a step of the finer map
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
    """Within the context, each forward pass fills the list that it yields: one entry an alignment, coarsest first.

    Raises:
        ValueError: see :func:`pyramid_of`.
    """
    pyramid = pyramid_of(model)
    records: list[Alignment] = []
    handles = [pyramid.register_forward_pre_hook(lambda *_: records.clear())]
    for level, align in _aligns(pyramid):
        handles += _watch(level, align, records)
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()


def _aligns(pyramid: TopDownPyramid) -> list[tuple]:
    named = ((level, getattr(pyramid, f"fpn_align{level.stage}", None)) for level in pyramid.levels)
    return [(level, align) for level, align in named if align is not None]


def _watch(level, align: nn.Module, records: list[Alignment]) -> list:
    """Hooks on one alignment. The deformable convolution is hooked itself: its arguments are what really happened."""
    if hasattr(align, "deform_conv"):

        def deformed(module, inputs, output):
            upsampled, offset, mask = (t[0].detach().float().cpu() for t in inputs)
            weight = module.weight.detach().float().cpu()
            moved = mean_displacement(offset, mask, weight) * level.stride
            # The module's ReLU follows the convolution and belongs to it.
            records.append(_record(level, upsampled, output[0].detach().relu(), moved))

        return [align.deform_conv.register_forward_hook(deformed)]

    def resampled(module, inputs, output):
        fine, coarse = inputs
        moved = None
        if hasattr(module, "predict_flow"):  # (right, down), in units of module.unit fine pixels
            flow = module.predict_flow(fine[:1], coarse[:1])[0].detach().float().cpu()
            moved = flow.flip(0) * module.unit * level.stride
        # A warp by no flow at all is what the flow's effect is to be seen against.
        plain = "bilinear_corners" if getattr(module, "align_corners", False) else "bilinear"
        before = resize_to(coarse[:1].detach(), fine.shape[-2:], getattr(module, "mode", plain))[0]
        records.append(_record(level, before, output[0].detach(), moved, field="flow"))

    return [align.register_forward_hook(resampled)]


def _record(level, before: Tensor, after: Tensor, displacement: Tensor | None, *, field: str = "offsets") -> Alignment:
    return Alignment(
        stage=level.stage,
        stride=level.stride,
        before=before.float().cpu(),
        after=after.float().cpu(),
        displacement=displacement,
        field=field,
    )


def mean_displacement(offset: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """Where a deformable convolution looks on average, relative to where the plain one would.

    A mean over groups and taps, each weighted by its mask and by the norm of its weights: a tap that hardly counts
    may point anywhere.

    Args:
        offset: (2GK,H,W), group-major, then taps, then (dy, dx), in pixels of the map.
        mask: (GK,H,W), in [0, 1].
        weight: (O,C,kh,kw) of the convolution, C split evenly into G groups.

    Returns:
        (2,H,W), (dy, dx) in pixels of the map.
    """
    taps = weight.shape[2] * weight.shape[3]
    groups = mask.shape[0] // taps
    size = offset.shape[-2:]
    strength = weight.reshape(len(weight), groups, -1, taps).square().sum(dim=(0, 2)).sqrt()  # (G,K)
    share = mask.view(groups, taps, *size) * strength[..., None, None]
    share = share / share.sum(dim=(0, 1)).clamp_min(torch.finfo(share.dtype).tiny)
    return torch.einsum("gkdhw,gkhw->dhw", offset.view(groups, taps, 2, *size), share)
