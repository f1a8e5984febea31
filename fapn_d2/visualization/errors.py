"""Where predictions are wrong, and what changed from one network to another: Figure 6 of SFNet.

Legend: H x W size of the image, s enlargement. Pictures are (H, W, 3) uint8, RGB.
"""

from dataclasses import dataclass

import numpy as np

from .color import RGB
from .paint import enlarge
from .segments import Segments

#: Colours of right pixels and of pixels without ground truth in pictures of errors.
RIGHT: RGB = (0, 0, 0)
UNLABELLED: RGB = (62, 62, 68)
#: Colour-blind people can tell blue and orange apart.
IMPROVED: RGB = (70, 150, 255)
WORSENED: RGB = (255, 140, 20)
STILL_WRONG: RGB = (205, 205, 200)


@dataclass(frozen=True)
class Errors:
    """The wrong pixels of a prediction."""

    wrong: np.ndarray  #: (H,W) bool: pixels whose class is not that of the ground truth
    labelled: np.ndarray  #: (H,W) bool: pixels that have ground truth; others are never wrong

    @property
    def accuracy(self) -> float:
        """Percentage of the labelled pixels that are right; nan if there are none."""
        total = self.labelled.sum()
        return 100 * (1 - float(self.wrong.sum() / total)) if total else float("nan")


@dataclass(frozen=True)
class Change:
    """The difference between two networks' errors on one image."""

    improved: np.ndarray  #: (H,W) bool: wrong before, right after
    worsened: np.ndarray  #: (H,W) bool: right before, wrong after
    still_wrong: np.ndarray  #: (H,W) bool: wrong in both, maybe in different ways
    labelled: np.ndarray  #: (H,W) bool

    def percent(self, part: np.ndarray) -> float:
        """Percentage of the labelled pixels that are in ``part``; nan if there are none."""
        total = self.labelled.sum()
        return 100 * float(part.sum() / total) if total else float("nan")


def find_errors(found: Segments, truth: Segments) -> Errors:
    """Compare classes pixel by pixel, whichever object of a class a pixel belongs to.

    Raises:
        ValueError: the two differ in size.
    """
    if found.labels.shape != truth.labels.shape:
        raise ValueError(f"the prediction has {found.labels.shape} pixels, the ground truth {truth.labels.shape}")
    names = {segment.name for segments in (found, truth) for segment in segments.segments.values()}
    numbers = {name: i for i, name in enumerate(sorted(names), start=1)}
    classes_found, classes_true = (_classes(segments, numbers) for segments in (found, truth))
    labelled = classes_true > 0
    return Errors(wrong=labelled & (classes_found != classes_true), labelled=labelled)


def find_change(before: Errors, after: Errors) -> Change:
    """What a second network does better and worse than a first one on the same image."""
    return Change(
        improved=before.wrong & ~after.wrong,
        worsened=after.wrong & ~before.wrong,
        still_wrong=before.wrong & after.wrong,
        labelled=after.labelled,
    )


def paint_errors(errors: Errors, truth: Segments, *, scale: int = 1) -> np.ndarray:
    """(sH,sW,3): right pixels are black, wrong ones have the colour of the class that they should have."""
    highest = max(truth.segments, default=0)
    colors = [UNLABELLED] + [truth.segments[i].class_color for i in range(1, highest + 1)]
    picture = np.array(colors, np.uint8)[truth.labels]
    picture[errors.labelled & ~errors.wrong] = RIGHT
    return enlarge(picture, scale, smooth=False)


def paint_change(image: np.ndarray, change: Change, *, scale: int = 1) -> np.ndarray:
    """(sH,sW,3): improved pixels blue, worsened ones orange, those wrong in both light, on the image in dark grey.

    Raises:
        ValueError: image and errors differ in size.
    """
    if image.shape[:2] != change.labelled.shape:
        raise ValueError(f"the image has {image.shape[:2]} pixels, the errors {change.labelled.shape}")
    gray = (image.mean(axis=2, keepdims=True) * 0.4).astype(np.uint8)
    picture = np.repeat(gray, 3, axis=2)
    for part, color in (
        (change.still_wrong, STILL_WRONG),
        (change.improved, IMPROVED),
        (change.worsened, WORSENED),
    ):
        picture[part] = color
    return enlarge(picture, scale, smooth=False)


def _classes(segments: Segments, numbers: dict[str, int]) -> np.ndarray:
    """(H,W) class numbers, 0 where there is no segment."""
    highest = max(segments.segments, default=0)
    table = [0] + [numbers[segments.segments[i].name] for i in range(1, highest + 1)]
    return np.array(table)[segments.labels]
