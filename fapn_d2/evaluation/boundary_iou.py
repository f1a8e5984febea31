"""Mean IoU on boundary pixels (FaPN, Section 4.2 and Table 2).

The paper says in a footnote that n pixels around the outline of each object are boundary pixels, n in {3, 5, 8, 12}.
It leaves the following open; we chose:

- The outlines are those of the semantic label map, because the measure is a semantic one. Touching instances of one
  class have no outline between them. Void counts as a label, so an object also has an outline against void.
- A pixel is a boundary pixel of width n if a pixel with another label lies within a Euclidean distance of n. Along a
  straight outline these are the n pixels next to it on either side. The border of the image is not an outline.
- The outlines are those of the ground truth. Void pixels are not scored.
- For each width there is one confusion matrix over the boundary pixels of the whole data set. The mIoU is the mean over
  the classes that occur in the ground truth of these pixels, as in Detectron2's ``SemSegEvaluator``. The summary is the
  mean over the widths, as in the table.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from .gather import sum_over_processes
from .run_lengths import count, runs

#: Widths of FaPN's Table 2, in pixels.
PAPER_WIDTHS = (3, 5, 8, 12)


def boundary_rings(labels: np.ndarray, widths: Sequence[int] = PAPER_WIDTHS) -> np.ndarray:
    """The narrowest boundary band of each pixel.

    Args:
        labels: the labels (H,W), integers from 0 to 65535, void included.
        widths: widths of the bands in pixels, ascending.

    Returns:
        H,W uint8: index of the narrowest width whose band contains the pixel (all wider bands contain it too);
        ``len(widths)`` for pixels in no band.
    """
    # A disk contains two labels if and only if its largest and smallest label differ. A dilation and an erosion by the
    # disk find all such pixels at once. In OpenCV, pixels outside the image affect neither.
    labels = labels.astype(np.uint8 if labels.size and labels.max() < 256 else np.uint16)
    rings = np.full(labels.shape, len(widths), np.uint8)
    for width in widths:
        disk = _disk(width)
        rings -= (cv2.dilate(labels, disk) != cv2.erode(labels, disk)).view(np.uint8)
    return rings


def _disk(radius: int) -> np.ndarray:
    offsets = np.arange(-radius, radius + 1)
    return (offsets[:, None] ** 2 + offsets[None, :] ** 2 <= radius**2).astype(np.uint8)


class BoundaryConfusion:
    """Confusion matrices on boundary pixels, one per width, summed over images and processes.

    Args:
        num_classes: number of classes C; predictions are 0..C-1.
        ignore_label: value of void in the ground truth.
        widths: widths in pixels, ascending.

    Raises:
        ValueError: ``widths`` is empty, not positive or not ascending.
    """

    def __init__(self, num_classes: int, *, ignore_label: int, widths: Sequence[int] = PAPER_WIDTHS):
        widths = tuple(int(w) for w in widths)
        if not widths or widths[0] < 1 or list(widths) != sorted(set(widths)):
            raise ValueError(f"boundary widths are positive and ascending numbers of pixels, got {list(widths)}")
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.widths = widths
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._rings = np.zeros((len(self.widths), self.num_classes, self.num_classes), np.int64)

    def update(self, prediction: np.ndarray, ground_truth: np.ndarray) -> None:
        """Count one image.

        Args:
            prediction: the predicted classes (H,W), integers 0..C-1.
            ground_truth: the true classes (H,W), integers 0..C-1 or ``ignore_label``.

        Raises:
            ValueError: the shapes differ, or a label is out of range.
        """
        if prediction.shape != ground_truth.shape:
            raise ValueError(f"prediction is {prediction.shape}, ground truth {ground_truth.shape}; sizes must agree")
        rings = boundary_rings(ground_truth, self.widths)
        lengths, *values = runs(rings, ground_truth, prediction)
        counted = (values[0] < len(self.widths)) & (values[1] != self.ignore_label)
        ring, truth, guess = (value[counted].astype(np.int64) for value in values)
        for labels, name in ((truth, "ground truth"), (guess, "prediction")):
            if labels.size and (labels.min() < 0 or labels.max() >= self.num_classes):
                wrong = sorted(set(np.unique(labels)) - set(range(self.num_classes)))
                raise ValueError(
                    f"{name} holds label {wrong[0]}; allowed are 0..{self.num_classes - 1}"
                    + (f" and {self.ignore_label} (void)" if name == "ground truth" else "")
                )
        index = (ring * self.num_classes + truth) * self.num_classes + guess
        self._rings += count(index, lengths[counted], self._rings.size).reshape(self._rings.shape)

    def matrices(self) -> np.ndarray:
        """len(widths),C,C counts of all processes, indexed [i, truth, prediction] for the band of ``widths[i]``.

        All processes must call it.
        """
        return np.cumsum(sum_over_processes(self._rings), axis=0)

    def scores(self) -> dict[str, float]:
        """``boundary_mIoU_{n}px`` for each width and their mean ``boundary_mIoU``, in percent.

        NaN where no pixel was counted. All processes must call it.
        """
        per_width = [100 * _mean_iou(matrix) for matrix in self.matrices()]
        named = {f"boundary_mIoU_{width}px": score for width, score in zip(self.widths, per_width)}
        return {**named, "boundary_mIoU": float(np.mean(per_width))}


def _mean_iou(matrix: np.ndarray) -> float:
    hits, truth, guess = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    occurs = truth > 0
    return float(np.mean((hits / np.maximum(truth + guess - hits, 1))[occurs])) if occurs.any() else float("nan")
