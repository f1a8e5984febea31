"""Mean IoU and related scores from one confusion matrix.

Detectron2's ``SemSegEvaluator`` counts on the CPU, encodes every prediction as run lengths and computes boundary IoU
with OpenCV, which together take longer than a small network; up to 2024 it cannot read labels under numpy 2. The
evaluator here counts on the device of the prediction and keeps only the counts. Its numbers equal Detectron2's.

Letters: K classes; H, W height and width of the image as stored.
"""

import json
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from PIL import Image

from ..data.reading import read_labels
from .boundary_iou import BoundaryConfusion

logger = logging.getLogger(__name__)

#: Folder of kept predictions below ``output_dir``: PNGs of class numbers, named like the images.
KEPT_FOLDER = "sem_seg"


def confusion_matrix(prediction: torch.Tensor, truth: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Count pairs of classes.

    Args:
        prediction: (H, W) integers in [0, K).
        truth: (H, W) integers in [0, K]; pixels with K are not labelled and not counted.
        num_classes: the number of classes K.

    Returns:
        (K, K) int64 on the CPU; entry [p, t] is the number of pixels predicted p and labelled t.
    """
    pairs = prediction.reshape(-1).long() * (num_classes + 1) + truth.reshape(-1).long()
    counts = torch.bincount(pairs, minlength=num_classes * (num_classes + 1))
    return counts.reshape(num_classes, num_classes + 1)[:, :-1].cpu()


def class_map(scores: torch.Tensor) -> torch.Tensor:
    """(H, W) int64 class with the highest of (K, H, W) scores."""
    # argmax gives the same result but takes almost three times as long on the CPU
    return scores.max(dim=0).indices


def scores(matrix: np.ndarray, class_names: list[str]) -> dict[str, float]:
    """Percentages under Detectron2's names: mIoU, fwIoU, mACC, pACC, and IoU-<class>, ACC-<class>.

    A class without a labelled pixel has no score (NaN) and is left out of the means.

    Args:
        matrix: (K, K) counts, [predicted, labelled].
        class_names: K names.
    """
    matrix = matrix.astype(np.float64)
    hits, labelled, predicted = matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1)
    present = labelled > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        accuracy = np.where(present, hits / labelled, np.nan)
        iou = np.where(present, hits / (labelled + predicted - hits), np.nan)
        frequency = labelled / labelled.sum()
        result = {
            "mIoU": np.nanmean(iou) if present.any() else np.nan,
            "fwIoU": np.nansum(iou * frequency) if present.any() else np.nan,
            "mACC": np.nanmean(accuracy) if present.any() else np.nan,
            "pACC": hits.sum() / labelled.sum(),
        }
    result |= {f"IoU-{name}": value for name, value in zip(class_names, iou)}
    result |= {f"ACC-{name}": value for name, value in zip(class_names, accuracy)}
    return {name: 100 * float(value) for name, value in result.items()}


class SemSegEvaluator(DatasetEvaluator):
    """Semantic scores of a data set, also in several processes.

    Args:
        dataset_name: registered with "sem_seg_file_name" in its records and "stuff_classes" in its metadata;
            "ignore_label" (255 if absent) marks pixels that do not count.
        output_dir: where ``sem_seg_evaluation.json`` (scores and confusion matrix) goes; None: nowhere.
        boundary_widths: widths in pixels of the bands around outlines within which mIoU is reported as well
            (:mod:`.boundary_iou`); empty: none.
        read: path -> (H, W) integers.
        keep: also write each prediction to ``output_dir/sem_seg/<stem of the image>.png``.

    Raises:
        ValueError: the data set has no semantic labels or no class names.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        *,
        boundary_widths: Sequence[int] = (),
        read: Callable[[str], np.ndarray] = read_labels,
        keep: bool = False,
    ):
        metadata = MetadataCatalog.get(dataset_name)
        self._class_names = metadata.get("stuff_classes")
        if not self._class_names:
            raise ValueError(f"the data set {dataset_name} names no stuff_classes, which semantic scores need")
        records = DatasetCatalog.get(dataset_name)
        if not all("sem_seg_file_name" in record for record in records):
            raise ValueError(f"the data set {dataset_name} has images without sem_seg_file_name: no semantic labels")
        self._label_of = {record["file_name"]: record["sem_seg_file_name"] for record in records}
        self._ignore = metadata.get("ignore_label", 255)
        self._output_dir = output_dir
        self._read = read
        self._kept = Path(output_dir, KEPT_FOLDER) if keep and output_dir else None
        self._boundary = (
            BoundaryConfusion(len(self._class_names), ignore_label=self._ignore, widths=boundary_widths)
            if boundary_widths
            else None
        )
        self.reset()

    def reset(self) -> None:
        self._matrix = torch.zeros(len(self._class_names), len(self._class_names), dtype=torch.int64)
        if self._boundary:
            self._boundary.reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Count a batch.

        Args:
            inputs: the records, with "file_name".
            outputs: the outputs, with "sem_seg", (K, H, W) scores of any sign and scale.

        Raises:
            ValueError: a label cannot be read, has another size than the prediction, or classes that do not exist; the
                network has another number of classes than the data set. Names the file.
        """
        classes = len(self._class_names)
        for record, output in zip(inputs, outputs):
            score = output["sem_seg"]
            if score.shape[0] != classes:
                raise ValueError(
                    f"the network predicts {score.shape[0]} classes, the data set has {classes}: set "
                    f"MODEL.SEM_SEG_HEAD.NUM_CLASSES {classes}"
                )
            path = self._label_of[record["file_name"]]
            label = self._read(path)
            if label.shape != tuple(score.shape[1:]):
                raise ValueError(f"label {path} is {label.shape}, its prediction {tuple(score.shape[1:])} (H, W)")
            truth = torch.from_numpy(label.astype(np.int64)).to(score.device)
            ignored = truth == self._ignore
            wrong = (truth < 0) | (truth >= classes)
            if bool((wrong & ~ignored).any()):
                values = torch.unique(truth[wrong & ~ignored]).tolist()
                raise ValueError(
                    f"label {path} holds {values[:5]}; allowed are 0 to {classes - 1} and {self._ignore} (not labelled)"
                )
            truth[ignored] = classes
            prediction = class_map(score)
            self._matrix += confusion_matrix(prediction, truth, classes)
            if self._kept:
                self._keep(record["file_name"], prediction)
            if self._boundary:
                self._boundary.update(prediction.cpu().numpy(), label)

    def _keep(self, file_name: str, prediction: torch.Tensor) -> None:
        self._kept.mkdir(parents=True, exist_ok=True)
        values = prediction.cpu().numpy().astype(np.uint8 if len(self._class_names) <= 256 else np.uint16)
        Image.fromarray(values).save(self._kept / f"{Path(file_name).stem}.png")

    def evaluate(self) -> OrderedDict | None:
        """{"sem_seg": scores} on the main process, None on the others."""
        matrix = sum(comm.all_gather(self._matrix)).numpy()
        boundary = self._boundary.scores() if self._boundary else {}
        if not comm.is_main_process():
            return None
        result = scores(matrix, self._class_names) | boundary
        if self._output_dir:
            os.makedirs(self._output_dir, exist_ok=True)
            with open(os.path.join(self._output_dir, "sem_seg_evaluation.json"), "w") as file:
                json.dump({"classes": list(self._class_names), "scores": result, "confusion": matrix.tolist()}, file)
        logger.info("Semantic segmentation: %s", {k: round(v, 3) for k, v in result.items() if "-" not in k})
        return OrderedDict(sem_seg=result)
