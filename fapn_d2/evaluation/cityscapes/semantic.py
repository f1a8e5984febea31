"""Semantic segmentation on Cityscapes: IoU, iIoU, IoU_sup, iIoU_sup (FaPN, Table 4), and IoU on boundaries (Table 2).

Detectron2's evaluator writes all predictions to one machine's disk, where the official script scores them in one
process. The evaluator here counts in every process and adds up the counts. It can also run the official script, for
comparison.
"""

import logging
import os
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from PIL import Image

from ...data.reading import read_labels
from ..boundary_iou import BoundaryConfusion
from ..gather import concatenate_over_processes, require_every_image
from ..sem_seg import class_map
from .counts import CityscapesCounts, label_table
from .files import ground_truth_files, image_key
from .official import semantic_scores

logger = logging.getLogger(__name__)

#: Our names -> those in the result of the official script.
OFFICIAL_NAMES = {
    "IoU": "averageScoreClasses",
    "iIoU": "averageScoreInstClasses",
    "IoU_sup": "averageScoreCategories",
    "iIoU_sup": "averageScoreInstCategories",
}


class CityscapesSemSegEvaluator(DatasetEvaluator):
    """The official semantic scores, in any number of processes on any number of machines.

    Args:
        dataset_name: e.g. "cityscapes_fine_sem_seg_val"; "gt_dir" of its metadata holds ``labelIds`` and
            ``instanceIds`` PNGs.
        prediction_dir: where predictions are written as the server takes them: PNGs of label ids named
            ``<city>_<sequence>_<frame>_pred.png``. None: they are not kept.
        boundary_widths: widths of boundary bands in pixels (:mod:`.boundary_iou`); empty: none.
        official: let the official script score the files in ``prediction_dir``, which all processes must share.

    Raises:
        FileNotFoundError: there is no ground truth.
        ValueError: ``official`` without ``prediction_dir``; the package cityscapesscripts is not installed.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        prediction_dir: str | None = None,
        boundary_widths: Sequence[int] = (),
        official: bool = False,
    ):
        if official and prediction_dir is None:
            raise ValueError("the official script reads predictions from disk: official=True needs a prediction_dir")
        self._name = dataset_name
        self._labels = ground_truth_files(dataset_name, "labelIds")
        self._instances = ground_truth_files(dataset_name, "instanceIds")
        if lacking := sorted(self._labels.keys() ^ self._instances.keys()):
            raise FileNotFoundError(
                f"{len(lacking)} images of {dataset_name} lack either labelIds or instanceIds ({lacking[0]}, ...)"
            )
        self._table = label_table()
        self._prediction_dir = prediction_dir
        self._official = official
        self._counts = CityscapesCounts()
        self._boundary = (
            BoundaryConfusion(len(self._table.label_id), ignore_label=255, widths=boundary_widths)
            if boundary_widths
            else None
        )
        self.reset()

    def reset(self) -> None:
        self._counts.reset()
        if self._boundary:
            self._boundary.reset()
        self._seen: list[str] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Count a batch.

        Args:
            inputs: the records, with "file_name".
            outputs: the outputs, with "sem_seg": (19, H, W) scores in the order of the train ids, of any sign and
                scale.

        Raises:
            ValueError: a label or size does not fit; names the image.
        """
        for record, output in zip(inputs, outputs):
            key = image_key(record["file_name"])
            if key not in self._labels:
                raise ValueError(f"{record['file_name']} has no ground truth in {self._name}")
            scores = output["sem_seg"]
            if scores.shape[0] != len(self._table.label_id):
                raise ValueError(
                    f"the network predicts {scores.shape[0]} classes, Cityscapes has {len(self._table.label_id)}: set "
                    f"MODEL.SEM_SEG_HEAD.NUM_CLASSES {len(self._table.label_id)}"
                )
            train_ids = class_map(scores).to(torch.uint8).cpu().numpy()
            try:
                self._count(train_ids, read_labels(self._labels[key]), read_labels(self._instances[key]))
            except ValueError as error:
                raise ValueError(f"{key} of {self._name}: {error}") from error
            if self._prediction_dir:
                self._write(key, train_ids)
            self._seen.append(key)

    def _count(self, train_ids: np.ndarray, labels: np.ndarray, instances: np.ndarray) -> None:
        self._counts.update(self._table.label_id[train_ids], labels, instances)
        if self._boundary:
            self._boundary.update(train_ids, self._table.train_id[labels])

    def _prediction_file(self, key: str) -> str:
        return os.path.join(self._prediction_dir, f"{key}_pred.png")

    def _write(self, key: str, train_ids: np.ndarray) -> None:
        os.makedirs(self._prediction_dir, exist_ok=True)
        Image.fromarray(self._table.label_id[train_ids]).save(self._prediction_file(key))

    def evaluate(self) -> OrderedDict | None:
        """``{"sem_seg": percentages}`` on the main process, None on the others.

        IoU, iIoU, IoU_sup, iIoU_sup; the same of each class and category after a hyphen; and ``boundary_mIoU*``.

        Raises:
            ValueError: images were left out or evaluated twice.
        """
        require_every_image(concatenate_over_processes(self._seen), list(self._labels), self._name)
        scores = self._counts.scores()
        boundary = self._boundary.scores() if self._boundary else {}
        if not comm.is_main_process():
            return None
        if self._official:
            pairs = [(self._prediction_file(key), truth) for key, truth in self._labels.items()]
            official = semantic_scores(pairs)
            scores |= {ours: 100 * official[theirs] for ours, theirs in OFFICIAL_NAMES.items()}
        scores |= boundary
        logger.info("Cityscapes: %s", {k: round(v, 3) for k, v in scores.items() if "-" not in k})
        return OrderedDict(sem_seg=scores)
