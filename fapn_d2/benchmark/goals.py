"""The project's targets for speed and memory: comparisons with a limit for their result."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..reproduction.ledger import CONFIGS
from .measure import Comparison, Measurement
from .options import PASSES


@dataclass(frozen=True)
class Goal:
    """A limit for a ratio of two alternatives of one comparison.

    Attributes:
        what: the description of the ratio in the report.
        of: "time", "memory", or "frames": frames per second of the fastest alternative divided by the paper's.
        limit: the largest allowed ratio, or the smallest one with ``at_least``.
        measured: the alternative in the numerator.
        against: the alternative in the denominator.
        at_least: whether the limit is the smallest allowed ratio.
    """

    what: str
    of: str
    limit: float
    measured: str = ""
    against: str = ""
    at_least: bool = False

    def ratio(self, comparison: Comparison, measurements: Sequence[Measurement]) -> float | None:
        """The ratio; None if a part of it could not be measured."""
        if self.of == "frames":
            printed = comparison.setting["paper_fps"]
            frames = [1e3 * m.items / m.median_ms for m in measurements]
            return max(frames) / printed if frames and printed else None
        key = {"time": "median_ms", "memory": "peak_mib"}[self.of]
        found = {m.name: getattr(m, key) for m in measurements}
        above, below = found.get(self.measured), found.get(self.against)
        return above / below if above and below else None


@dataclass(frozen=True)
class Trial:
    """Comparisons of a suite of ``tools/benchmark.py``, and the goals of each of them."""

    suite: str
    options: dict[str, Any] = field(default_factory=dict)  #: fields of `Options` that the user does not choose
    goals: tuple[Goal, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """A goal and its result."""

    setting: dict[str, object]
    what: str
    limit: str
    ratio: float | None  #: None: not measured
    reached: bool

    @property
    def line(self) -> str:
        """``reached  1.93, at most 3: ... (stride 4, pass forward)``."""
        state = "unknown" if self.ratio is None else "reached" if self.reached else "MISSED"
        where = ", ".join(f"{key} {value}" for key, value in self.setting.items() if key in ("stride", "batch", "pass"))
        ratio = "?" if self.ratio is None else f"{self.ratio:.2f}"
        return f"{state:8} {ratio}, {self.limit}: {self.what}" + (f" ({where})" if where else "")


def trials(device: torch.device) -> tuple[Trial, ...]:
    """The goals for a device: on CUDA for an H100, on a CPU for `THREADS` threads."""
    return _CUDA if device.type == "cuda" else _CPU


def judge(trial: Trial, comparison: Comparison, measurements: Sequence[Measurement]) -> list[Verdict]:
    """The verdict on every goal of a trial for one of its comparisons."""
    verdicts = []
    for goal in trial.goals:
        ratio = goal.ratio(comparison, measurements)
        reached = ratio is not None and (ratio >= goal.limit if goal.at_least else ratio <= goal.limit)
        limit = f"at {'least' if goal.at_least else 'most'} {goal.limit:g}"
        verdicts.append(Verdict(comparison.setting, goal.what, limit, ratio, reached))
    return verdicts


def _operator(
    goals: tuple[Goal, ...], *, images: tuple, strides: tuple, batch: int, dtype: str, passes: tuple
) -> Trial:
    options = {"images": images, "strides": strides, "batches": (batch,), "dtypes": (dtype,), "passes": passes}
    return Trial("ops", options | {"operators": ("deform",), "channels": 256, "groups": 8}, goals)


def _networks(suite: str, dtype: str, batches: tuple, goal: Goal, **options) -> Trial:
    options |= {"images": _COCO, "batches": batches, "dtypes": (dtype,), "configs": (_MASK_RCNN,)}
    return Trial(suite, options, (goal,))


def _frames(config: str, size: tuple[int, int], limit: float) -> Trial:
    options = {"images": (size,), "batches": (1,), "dtypes": ("bf16", "fp16"), "configs": ((str(CONFIGS / config),),)}
    fast = {"channels_last": True, "fold_norms": True, "compile": True, "cuda_graph": True, "passes": ("forward",)}
    what = f"{config} at {size[0]}x{size[1]}: frames per second over the paper's"
    return Trial("speed", options | fast, (Goal(what, "frames", limit, at_least=True),))


def _over_torchvision(what: str, limit: float) -> Goal:
    return Goal(
        f"torchvision's time over the deformable convolution's, {what}", "time", limit, "torchvision", "fapn_d2", True
    )


def _over_fpn(what: str, limit: float) -> Goal:
    return Goal(f"{what}: FaPN's time over FPN's", "time", limit, "mask_rcnn_R_50_FaPN_1x", "mask_rcnn_R_50_FPN_1x")


#: CPU threads that the CPU goals are for.
THREADS = 2
_COCO = ((800, 1333),)
_MASK_RCNN = tuple(str(CONFIGS / "fapn" / f"mask_rcnn_R_50_{neck}_1x.yaml") for neck in ("FPN", "FaPN"))
_HOPPER = "bf16, stride 4 of 800x1333, batch 2"

_AT_STRIDE_4 = {"images": _COCO, "strides": (4,), "batch": 2, "dtype": "bf16"}

_CUDA = (
    _operator(
        (
            Goal(f"deformable convolution's time over a plain one's, {_HOPPER}", "time", 3.0, "fapn_d2", "conv3x3"),
            Goal(f"deformable convolution's memory over a plain one's, {_HOPPER}", "memory", 1.3, "fapn_d2", "conv3x3"),
            _over_torchvision(_HOPPER, 4.0),
        ),
        **_AT_STRIDE_4,
        passes=("forward",),
    ),
    _operator((_over_torchvision(_HOPPER, 3.0),), **_AT_STRIDE_4, passes=("forward+backward",)),
    _networks("model", "bf16", (1, 2), _over_fpn("Mask R-CNN R50, bf16, inference", 1.10), channels_last=True),
    _networks("train", "bf16", (2,), _over_fpn("Mask R-CNN R50, bf16, training", 1.15), channels_last=True),
    _frames("fapn/realtime_R_18_FaPN_cityscapes.yaml", (512, 1024), 5.0),
    _frames("sfnet/semantic_R_18_SFNet_cityscapes.yaml", (1024, 2048), 8.0),
)

_ALONE = {"batch": 1, "dtype": "float32"}

_CPU = (
    _operator(
        (_over_torchvision("256 channels, 120x160", 2.5),),
        **_ALONE,
        images=((480, 640),),
        strides=(4,),
        passes=("forward",),
    ),
    _operator(
        (_over_torchvision("levels of 800x1333", 1.0),), **_ALONE, images=_COCO, strides=(8, 16, 32), passes=PASSES
    ),
    _networks("neck", "float32", (1,), _over_fpn("necks at 800x1333", 2.0), passes=("forward",)),
)
