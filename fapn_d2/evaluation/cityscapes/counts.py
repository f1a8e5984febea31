"""Cityscapes' four semantic scores by counting: the same numbers as the official script, many times as fast.

The official definitions (M. Cordts et al., "The Cityscapes Dataset", CVPR 2016, Section 4.1):

- IoU of a class: TP / (TP + FP + FN) over all pixels whose ground truth is evaluated.
- iIoU, for classes with instances: TP and FN are sums over objects, each pixel weighted with the average size of the
  class over the size of its object; FP is not weighted, because semantic predictions have no objects.
- IoU_sup and iIoU_sup: the same over the categories (vehicle, human, ...).
- Each mean is over the classes or categories that occur in ground truth or prediction.

"Label ids" are the numbers in ``labelIds.png`` (0..33), "train ids" those of the 19 evaluated classes (0..18).
"""

import functools
import math
from dataclasses import dataclass

import numpy as np

from ...data.datasets.cityscapes import labels as cityscapes_labels
from ..gather import concatenate_over_processes, sum_over_processes
from ..run_lengths import count, runs
from .official import load


@dataclass(frozen=True)
class LabelTable:
    """Cityscapes' labels as arrays indexed by label id.

    Attributes:
        names: name of each label id.
        category: number of its category, an index into ``categories``.
        ignored: whether the label is left out of the evaluation.
        train_id: 0..18, or 255 for labels left out.
        label_id: label id of each of the 19 train ids.
        categories: names of the categories, "void" among them.
        counted_by_object: categories all of whose labels have instances.
        average_size: class name -> average number of pixels of an object in the training set.
    """

    names: tuple[str, ...]
    category: np.ndarray
    ignored: np.ndarray
    train_id: np.ndarray
    label_id: np.ndarray
    categories: tuple[str, ...]
    counted_by_object: tuple[str, ...]
    average_size: dict[str, float]


@functools.cache
def label_table() -> LabelTable:
    """The table of the package cityscapesscripts; label ids below 0 (license plates) are never in an image."""
    labels = [label for _, label in sorted(cityscapes_labels().items())]
    categories = tuple(dict.fromkeys(label.category for label in labels))
    trained = sorted((label for label in labels if not label.ignoreInEval), key=lambda label: label.trainId)
    return LabelTable(
        names=tuple(label.name for label in labels),
        category=np.array([categories.index(label.category) for label in labels]),
        ignored=np.array([label.ignoreInEval for label in labels]),
        train_id=np.array([255 if label.ignoreInEval else label.trainId for label in labels], np.uint8),
        label_id=np.array([label.id for label in trained], np.uint8),
        categories=categories,
        counted_by_object=tuple(c for c in categories if all(x.hasInstances for x in labels if x.category == c)),
        average_size=dict(load("evaluation.evalPixelLevelSemanticLabeling").args.avgClassSize),
    )


class CityscapesCounts:
    """Pixels by (truth, prediction) and objects by (label, size, hits), summed over images and processes."""

    def __init__(self):
        self._table = label_table()
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        labels = len(self._table.names)
        self._matrix = np.zeros((labels, labels), np.int64)
        self._objects: list[np.ndarray] = []

    def update(self, prediction: np.ndarray, label_ids: np.ndarray, instance_ids: np.ndarray) -> None:
        """Count one image.

        Args:
            prediction: the predicted label ids (H,W).
            label_ids: the true label ids (H,W).
            instance_ids: the ids (H,W): 1000 * label id + number for pixels of objects, the label id for all others.

        Raises:
            ValueError: the sizes differ, or a map holds ids that Cityscapes does not have.
        """
        if not prediction.shape == label_ids.shape == instance_ids.shape:
            raise ValueError(
                f"prediction is {prediction.shape}, labelIds {label_ids.shape}, instanceIds {instance_ids.shape}; "
                "sizes (H, W) must agree"
            )
        labels = len(self._table.names)
        for ids, limit, name in (
            (prediction, labels, "prediction"),
            (label_ids, labels, "labelIds"),
            (instance_ids, 1000 * labels, "instanceIds"),
        ):
            if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < limit:
                raise ValueError(f"{name} hold {int(ids.min())}..{int(ids.max())}; allowed are 0..{limit - 1}")
        lengths, guess, truth, instance = runs(prediction, label_ids, instance_ids)
        self._matrix += count(truth.astype(np.int64) * labels + guess, lengths, labels**2).reshape(labels, labels)
        on_object = instance > 1000
        self._objects.append(self._count_objects(lengths[on_object], guess[on_object], instance[on_object]))

    def _count_objects(self, lengths: np.ndarray, prediction: np.ndarray, instance_ids: np.ndarray) -> np.ndarray:
        """N,4 rows: label id, pixels, pixels predicted as that label, pixels predicted as its category."""
        category, bins = self._table.category, 1000 * len(self._table.names)
        label = instance_ids // 1000
        hit = prediction == label
        category_hit = category[prediction] == category[label]
        counts = [count(instance_ids[chosen], lengths[chosen], bins) for chosen in (..., hit, category_hit)]
        present = np.flatnonzero(counts[0])
        rows = np.stack([present // 1000, *(pixels[present] for pixels in counts)], axis=1)
        return rows[~self._table.ignored[rows[:, 0]]]

    def scores(self) -> dict[str, float]:
        """Percentages, NaN where undefined: the four means under the official names, then each class and category.

        Keys: IoU, iIoU, IoU_sup, iIoU_sup, and IoU-road, iIoU-car, IoU_sup-vehicle, ... All
        processes must call it; the numbers do not depend on how many there are.
        """
        table = self._table
        matrix = sum_over_processes(self._matrix)
        objects = np.concatenate([np.empty((0, 4), np.int64), *concatenate_over_processes(self._objects)])
        scores: dict[str, dict[str, float]] = {"IoU": {}, "iIoU": {}, "IoU_sup": {}, "iIoU_sup": {}}
        for label in table.label_id:
            name = table.names[label]
            own, others = [label], np.setdiff1d(np.flatnonzero(~table.ignored), label)
            scores["IoU"][name] = _iou(matrix, own, others)
            if name in table.average_size:
                rows = objects[objects[:, 0] == label]
                scores["iIoU"][name] = self._object_iou(rows, rows[:, 2], matrix[others, label].sum())
        for number, name in enumerate(table.categories):
            inside = np.flatnonzero(table.category == number)
            others = np.flatnonzero(~table.ignored & (table.category != number))
            evaluated = inside[~table.ignored[inside]]
            if evaluated.size:
                scores["IoU_sup"][name] = _iou(matrix, evaluated, others)
            if name in table.counted_by_object:
                rows = objects[table.category[objects[:, 0]] == number]
                false_positives = matrix[np.ix_(others, inside)].sum()
                scores["iIoU_sup"][name] = self._object_iou(rows, rows[:, 3], false_positives)
        means = {kind: _mean(parts.values()) for kind, parts in scores.items()}
        parts = {f"{kind}-{name}": score for kind, named in scores.items() for name, score in named.items()}
        return {name: 100 * score for name, score in {**means, **parts}.items()}

    def _object_iou(self, rows: np.ndarray, hits: np.ndarray, false_positives: int) -> float:
        weights = [self._table.average_size[self._table.names[row[0]]] / row[1] for row in rows]
        # exact summation: the result does not depend on which process saw which image
        weighted_hits = math.fsum(w * h for w, h in zip(weights, hits))
        weighted_misses = math.fsum(w * (row[1] - h) for w, row, h in zip(weights, rows, hits))
        total = weighted_hits + weighted_misses + float(false_positives)
        return weighted_hits / total if total else math.nan


def _iou(matrix: np.ndarray, own: np.ndarray, others: np.ndarray) -> float:
    hits = int(matrix[np.ix_(own, own)].sum())
    union = int(matrix[own].sum()) + int(matrix[np.ix_(others, own)].sum())
    return hits / union if union else math.nan


def _mean(values) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan
