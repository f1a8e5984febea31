"""Panoptic quality by counting: the same numbers as panopticapi, many times as fast.

A. Kirillov et al., "Panoptic Segmentation", CVPR 2019, Section 4: a predicted and a true segment of one category match
where their IoU exceeds 1/2. For each category, SQ is the mean IoU of the matches, RQ = TP / (TP + FP/2 + FN/2), and
PQ = SQ * RQ. Where the paper leaves details to the code, we follow panopticapi:

- Void (id 0) does not count towards the union of a prediction.
- A crowd cannot be matched and is not counted as missed. A prediction is not a false positive if more than half of it
  lies on void and on the crowd of its category (on the last listed crowd if there are several).
- The area of a true segment is the one that the annotation states.
- Ids in the ground truth image that its annotation does not list belong to no segment and are not void.
- Means are over the categories that occur in the ground truth or the predictions.
"""

from collections.abc import Sequence

import numpy as np

from .gather import sum_over_processes
from .run_lengths import count, runs

VOID = 0


class PanopticCounts:
    """Sums of IoU and numbers of true positives, false positives and false negatives, for each category.

    Args:
        categories: the categories, with "id" and "isthing", as in COCO's panoptic annotations.
    """

    def __init__(self, categories: Sequence[dict]):
        self._row = {category["id"]: row for row, category in enumerate(categories)}
        self._isthing = np.array([bool(category["isthing"]) for category in categories])
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._sums = np.zeros((len(self._row), 4))  # IoU, TP, FP, FN

    def update(
        self,
        truth: np.ndarray,
        truth_segments: Sequence[dict],
        prediction: np.ndarray,
        prediction_segments: Sequence[dict],
    ) -> None:
        """Count one image.

        Args:
            truth: the segment ids (H,W) of the ground truth, 0 for void.
            truth_segments: the true segments, with "id", "category_id", "area" and "iscrowd".
            prediction: the segment ids (H,W) of the prediction, 0 for void.
            prediction_segments: the predicted segments, with "id" and "category_id".

        Raises:
            ValueError: the sizes differ, a predicted id is in the image but not listed (or the reverse), or a category
                is unknown.
        """
        if truth.shape != prediction.shape:
            raise ValueError(f"prediction is {prediction.shape}, ground truth {truth.shape} (H, W)")
        true = {segment["id"]: segment for segment in truth_segments}
        found = {segment["id"]: segment for segment in prediction_segments}
        # pairs[i + 1, j + 1]: pixels on the i-th true and the j-th predicted segment; row and column 0: on no segment.
        lengths, truth, prediction = runs(truth, prediction)
        true_index, found_index = _positions(truth, [*true]), _positions(prediction, [*found])
        shape = len(true) + 1, len(found) + 1
        pairs = count(true_index * shape[1] + found_index, lengths, shape[0] * shape[1]).reshape(shape)
        area = pairs.sum(axis=0)[1:]
        self._check_prediction(lengths, prediction, found, area)

        if VOID in true:
            on_void = pairs[1 + [*true].index(VOID), 1:]
        else:
            on_void = count(found_index[truth == VOID], lengths[truth == VOID], shape[1])[1:]
        pairs = pairs[1:, 1:]
        true_row = np.array([self._row_of(s) for s in true.values()], int)
        found_row = np.array([self._row_of(s) for s in found.values()], int)
        crowd = np.array([s["iscrowd"] == 1 for s in true.values()], bool)
        true_area = np.array([s["area"] for s in true.values()], float)

        comparable = (true_row[:, None] == found_row) & ~crowd[:, None] & (pairs > 0)
        union = area + true_area[:, None] - pairs - on_void
        iou = np.divide(pairs, union, out=np.zeros(pairs.shape), where=comparable)
        matched_true, matched_found = np.nonzero(iou > 0.5)
        np.add.at(self._sums[:, 0], true_row[matched_true], iou[matched_true, matched_found])
        np.add.at(self._sums[:, 1], true_row[matched_true], 1)

        missed = ~crowd
        missed[matched_true] = False
        np.add.at(self._sums[:, 3], true_row[missed], 1)

        crowd_of = dict(zip(true_row[crowd], np.flatnonzero(crowd)))
        on_crowd = np.array([pairs[crowd_of[r], c] if r in crowd_of else 0 for c, r in enumerate(found_row)], int)
        wrong = (on_void + on_crowd) / area <= 0.5
        wrong[matched_found] = False
        np.add.at(self._sums[:, 2], found_row[wrong], 1)

    def _row_of(self, segment: dict) -> int:
        if segment["category_id"] not in self._row:
            raise ValueError(f"segment {segment['id']} has the unknown category_id {segment['category_id']}")
        return self._row[segment["category_id"]]

    @staticmethod
    def _check_prediction(
        lengths: np.ndarray, prediction: np.ndarray, found: dict[int, dict], area: np.ndarray
    ) -> None:
        if prediction.size and prediction.min() < 0:
            raise ValueError(f"predicted id {prediction.min()} is negative; void is {VOID}")
        if absent := [number for number, pixels in zip(found, area) if not pixels]:
            raise ValueError(f"predicted segment {absent[0]} is listed but has no pixel in the image")
        if lengths[prediction != VOID].sum() != sum(pixels for number, pixels in zip(found, area) if number != VOID):
            unlisted = sorted(set(np.unique(prediction).tolist()) - found.keys() - {VOID})
            raise ValueError(f"predicted segment {unlisted[0]} is in the image but not listed")

    def scores(self) -> dict[str, float]:
        """PQ, SQ, RQ in percent; for things with ``_th``, for stuff with ``_st``; NaN if no category occurs.

        All processes must call it, and all get the same numbers.
        """
        iou, tp, fp, fn = sum_over_processes(self._sums).T
        occurs = tp + fp + fn > 0
        with np.errstate(invalid="ignore"):
            rq = tp / (tp + 0.5 * fp + 0.5 * fn)
            sq = np.where(tp > 0, iou / np.maximum(tp, 1), 0)
            pq = iou / (tp + 0.5 * fp + 0.5 * fn)
        kinds = {"": occurs, "_th": occurs & self._isthing, "_st": occurs & ~self._isthing}
        return {
            name + suffix: 100 * float(values[chosen].mean()) if chosen.any() else float("nan")
            for suffix, chosen in kinds.items()
            for name, values in (("PQ", pq), ("SQ", sq), ("RQ", rq))
        }


def _positions(values: np.ndarray, ids: list[int]) -> np.ndarray:
    """1 + position of each value in ``ids``, 0 where it is not among them."""
    order = np.argsort(np.array(ids, np.int64))
    known = np.append(np.array(ids, np.int64)[order], np.iinfo(np.int64).max)
    place = np.searchsorted(known, values)
    return np.where(known[place] == values, np.append(order, -1)[place] + 1, 0)
