"""What the pyramid expects of its parts, and how to write a part of your own.

A strategy is a function ``(level, neck) -> part`` in one of the registries of ``registry.py``. Its name is then allowed
in the config. Most parts are plain modules:

=========== ============================================ =====================================
key         called with                                  a strategy returns
=========== ============================================ =====================================
CONTEXT     C5 (N,C,h,w) -> (N,D,h,w)                    `Context`, ``nn.Module`` or None
LATERAL     C_i (N,C,H,W) -> (N,D,H,W)                   ``nn.Module``
ALIGN       fine (N,D,H,W), coarse (N,D,h,w) -> fine's   `Align`
FUSE        fine, aligned, both (N,D,H,W) -> the same    ``nn.Module``
MERGE       see `Merge`                                  `Merge`, from a function without arguments
OUTPUT      merged (N,D,H,W) -> (N,D,H,W)                ``nn.Module``
=========== ============================================ =====================================

An alignment of your own, with everything that pictures and ablations need::

    from fapn_d2.necks.parts import Align
    from fapn_d2.necks.registry import ALIGNS

    class Deblur(Align):
        def __init__(self, channels):
            super().__init__()
            self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

        def forward(self, fine, coarse):
            return self.conv(self.upsample(fine, coarse))

    @ALIGNS.register
    def deblur(level, neck):  # MODEL.NECK.ALIGN deblur
        return Deblur(level.out_channels)

Legend: N images, C channels of a bottom-up map, D channels of the pyramid, H x W size of the finer map, h x w size of
the coarser map.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from ..layers.resize import resize_to


class Part(nn.Module):
    """A part that a faster equal computation may replace as long as no forward hook listens to it.

    Pictures, FLOP counts and users' own hooks need the part to be called; `is_watched` tells the merge.
    """

    _watchers = 0

    @property
    def is_watched(self) -> bool:
        """Whether a forward hook or forward pre-hook is registered on this very module."""
        return self._watchers > 0

    def register_forward_hook(self, *args, **kwargs) -> "HookHandle":
        return HookHandle(self, super().register_forward_hook(*args, **kwargs))

    def register_forward_pre_hook(self, *args, **kwargs) -> "HookHandle":
        return HookHandle(self, super().register_forward_pre_hook(*args, **kwargs))


class HookHandle:
    """PyTorch's handle of a hook, which also keeps count on the part that is watched."""

    def __init__(self, part: Part, handle):
        self.part, self.handle = part, handle
        part._watchers += 1

    def remove(self) -> None:
        """Remove the hook; a second call does nothing."""
        self.handle.remove()
        if self.part is not None:
            self.part._watchers -= 1
            self.part = None

    def __enter__(self) -> "HookHandle":
        return self

    def __exit__(self, *error) -> None:
        self.remove()


class Align(Part):
    """ALIGN: ``forward(fine (N,D,H,W), coarse (N,D,h,w))`` -> (N,D,H,W), the coarse map aligned to the fine one."""

    #: Whether ``forward`` reads the values of the fine map. False: it reads the size only, so it also works where there
    #: is not a lateral map (MERGE "topdown_only").
    needs_fine_features = True
    #: Whether ``align(fused, fused)`` aligns a fused map by itself, as MERGE "fuse_then_align" calls it.
    fused_input = False
    #: Whether ``align_and_add(fine, coarse)`` is faster than ``fine + align(fine, coarse)``.
    adds_in_one_pass = False
    #: What the paper calls the displacement, for the captions of pictures.
    field = "displacement"

    def upsample(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """(N,D,H,W), (N,D,h,w) -> (N,D,H,W): the coarse map at the size of the fine one, not yet aligned."""
        return resize_to(coarse, fine.shape[-2:], "bilinear")

    def align_and_add(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """(N,D,H,W), (N,D,h,w) -> (N,D,H,W): ``fine`` plus ``coarse`` aligned to it."""
        return fine + self(fine, coarse)

    def displacement(self, fine: Tensor, coarse: Tensor) -> Tensor | None:
        """(N,D,H,W), (N,D,h,w) -> (N,2,H,W): how far from its own place each pixel samples the coarse map.

        Channel 0 is dy, down; channel 1 is dx, to the right; both in pixels of the fine map. None: nothing is moved.
        """
        return None


@dataclass(frozen=True)
class Context:
    """CONTEXT: a module C5 (N,C,h,w) -> (N,D,h,w) and its place. A plain ``nn.Module`` means ``Context(module)``."""

    module: nn.Module
    #: True: the context is the coarsest lateral map, and no lateral is built there. False: it is added to that map.
    replaces_lateral: bool = False


@dataclass(frozen=True)
class Merge:
    """MERGE: ``apply(fine, coarse, align, fuse)`` -> merged (N,D,H,W).

    A merge is not a module. It says which parts it uses, so that no part is built whose parameters get no gradient.
    """

    apply: Callable
    uses_lateral: bool = True  #: False: no lateral is built; ``fine`` is the bottom-up map, of which the size is read
    uses_coarse: bool = True  #: False: ``coarse``, ``align`` and ``fuse`` are not used, and the two are not built
    fuses: bool = True  #: False: ``fuse`` is not used and not built
    aligns_fused: bool = False  #: True: ``align`` is called on a fused map; see `Align.fused_input`


class TopBlock(nn.Module):
    """What extends a pyramid above its coarsest level: ``forward(source, context)`` -> ``num_levels`` maps.

    ``source`` is the map that ``in_feature`` names, (N,C,h,w); ``context`` is the context map (N,D,h,w), or None where
    the pyramid has no CONTEXT. The maps have D channels, each half the size of the one before it, finest first.
    """

    num_levels: int  #: how many levels are added
    in_feature: str  #: name of a bottom-up map ("res5") or of a pyramid level ("p5")

    def forward(self, source: Tensor, context: Tensor | None) -> list[Tensor]:
        raise NotImplementedError
