"""Which windows, scales and mirror images of an image a semantic network sees in testing: the section TEST.SEM_SEG."""

from dataclasses import dataclass

import torch
from detectron2.config import CfgNode

SECTION = "TEST.SEM_SEG"


@dataclass(frozen=True)
class Windows:
    """Size and positions of the windows of an image.

    Raises:
        ValueError: a side below one pixel, or a stride not in (0, 1].
    """

    size: tuple[int, int]  #: (height, width) in pixels
    stride: float = 2 / 3  #: distance between neighbouring windows, as a fraction of the window
    grows: bool = False  #: whether the size grows with scales above 1

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"{SECTION}.CROP_SIZE must be (H, W) in pixels, got {self.size}")
        if not 0 < self.stride <= 1:
            raise ValueError(f"{SECTION}.STRIDE must be above 0 and at most 1 (a window), got {self.stride}")

    def at(self, scale: float) -> tuple[int, int]:
        """(height, width) of the windows of an image resized by ``scale``."""
        factor = max(scale, 1.0) if self.grows else 1.0
        return round(self.size[0] * factor), round(self.size[1] * factor)

    def starts(self, length: int, window: int) -> list[int]:
        """First pixel of each window along a side of ``length`` >= ``window`` pixels; the last one ends with it."""
        step = max(round(window * self.stride), 1)
        return [*range(0, length - window, step), length - window]


@dataclass(frozen=True)
class Views:
    """What a network sees of each image, and how its predictions are averaged.

    Raises:
        ValueError: a field is out of range; names the config key.
    """

    windows: Windows | None = None  #: None: whole images
    scales: tuple[float, ...] = (1.0,)  #: factors of the image's size
    flip: bool = False  #: whether each scale is also shown mirrored
    average: str = "logits"  #: as in SFNet's code of 2020; or "probabilities": softmax of each prediction
    batch: int = 4  #: windows that go through the network together
    accumulate: str = ""  #: device of the averages; "": the model's

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"{SECTION}.SCALES must be factors above 0, got {list(self.scales)}")
        if self.average not in ("logits", "probabilities"):
            raise ValueError(f'{SECTION}.AVERAGE is "{self.average}"; allowed are "logits" and "probabilities"')
        if self.batch < 1:
            raise ValueError(f"{SECTION}.BATCH must be at least 1, got {self.batch}")
        if self.accumulate and not _exists(self.accumulate):
            raise ValueError(
                f'{SECTION}.ACCUMULATE is "{self.accumulate}", which is not a device of this machine; allowed are '
                '"cpu", "cuda" where there is a GPU, and "" for the model\'s'
            )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "Views":
        node = cfg.TEST.SEM_SEG
        if node.MODE not in ("whole", "slide"):
            raise ValueError(f'{SECTION}.MODE is "{node.MODE}"; allowed are "whole" and "slide"')
        windows = Windows(tuple(node.CROP_SIZE), node.STRIDE, node.CROP_GROWS)
        return cls(
            windows=windows if node.MODE == "slide" else None,
            scales=tuple(node.SCALES),
            flip=node.FLIP,
            average=node.AVERAGE,
            batch=node.BATCH,
            accumulate=node.ACCUMULATE,
        )

    @property
    def plain(self) -> bool:
        """Whether the network sees each image once, as it is: there is nothing to average."""
        return self.windows is None and self.scales == (1.0,) and not self.flip


def _exists(device: str) -> bool:
    try:
        kind = torch.device(device).type
    except RuntimeError:
        return False
    return kind == "cpu" or (kind == "cuda" and torch.cuda.is_available())
