"""Panoptic quality of a data set (FaPN, Table 6).

Detectron2's evaluator sends the PNGs of all processes to the first, which writes them to its disk and starts
panopticapi on them. This one counts in each process what it has predicted and adds up.
"""

import json
import logging
import os
from collections import OrderedDict

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from ..data.panoptic_png import read_segment_ids, write_segment_ids
from .gather import concatenate_over_processes, require_every_image
from .panoptic_counts import PanopticCounts

logger = logging.getLogger(__name__)


class PanopticEvaluator(DatasetEvaluator):
    """PQ, SQ and RQ under the names of Detectron2's ``COCOPanopticEvaluator``, for COCO and Cityscapes.

    Args:
        dataset_name: its metadata name ``panoptic_json`` and ``panoptic_root``, map contiguous ids to those of the
            categories, and give "label_divisor" if the network predicts ``category * label_divisor + number``.
        prediction_dir: where predictions are kept as the server takes them, PNGs and ``predictions.json``; on several
            machines each keeps its own PNGs. None: they are not kept. Needed where the ground truth is not public.

    Raises:
        FileNotFoundError: the annotations are absent.
        ValueError: the annotations are not public and no ``prediction_dir`` is given.
    """

    def __init__(self, dataset_name: str, prediction_dir: str | None = None):
        self._name = dataset_name
        self._metadata = MetadataCatalog.get(dataset_name)
        with PathManager.open(self._metadata.panoptic_json) as file:
            self._truth = json.load(file)
        self._annotation = {a["image_id"]: a for a in self._truth.pop("annotations", [])}
        self._root = PathManager.get_local_path(self._metadata.panoptic_root) if self._annotation else None
        if not self._annotation and prediction_dir is None:
            raise ValueError(
                f"{self._metadata.panoptic_json} holds no annotations: {dataset_name} can only be predicted for a "
                "server, which needs a prediction_dir (TEST.KEEP_PREDICTIONS)"
            )
        self._prediction_dir = prediction_dir
        self._counts = PanopticCounts(self._truth["categories"])
        self.reset()

    def reset(self) -> None:
        self._counts.reset()
        self._seen: list = []
        self._kept: list[dict] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Count a batch.

        Args:
            inputs: the records, with "image_id" and "file_name".
            outputs: with "panoptic_seg": (H, W) ids and segments with "id", "category_id" and "isthing", contiguous
                category ids; without "isthing" they are the data set's; or, instead of segments, None, and the ids are
                ``category * label_divisor + number``, -1 for void.

        Raises:
            ValueError: an image has no ground truth, or prediction and segments disagree; names the image.
        """
        for record, output in zip(inputs, outputs):
            ids, segments = in_dataset_ids(*output["panoptic_seg"], self._metadata)
            image_id = record["image_id"]
            if self._annotation:
                if image_id not in self._annotation:
                    raise ValueError(f"image {image_id} ({record['file_name']}) has no ground truth in {self._name}")
                annotation = self._annotation[image_id]
                truth = read_segment_ids(os.path.join(self._root, annotation["file_name"]))
                try:
                    self._counts.update(truth, annotation["segments_info"], ids, segments)
                except ValueError as error:
                    raise ValueError(f"image {image_id} of {self._name}: {error}") from error
            if self._prediction_dir:
                self._keep(record, ids, segments)
            self._seen.append(image_id)

    def _keep(self, record: dict, ids: np.ndarray, segments: list[dict]) -> None:
        os.makedirs(self._prediction_dir, exist_ok=True)
        file_name = os.path.splitext(os.path.basename(record["file_name"]))[0] + ".png"
        write_segment_ids(os.path.join(self._prediction_dir, file_name), ids)
        self._kept.append({"image_id": record["image_id"], "file_name": file_name, "segments_info": segments})

    def evaluate(self) -> OrderedDict | None:
        """``{"panoptic_seg": percentages}`` on the main process, None on the others and without ground truth.

        PQ, SQ, RQ; of things PQ_th, SQ_th, RQ_th; of stuff PQ_st, SQ_st, RQ_st.

        Raises:
            ValueError: images were left out or evaluated twice.
        """
        seen = concatenate_over_processes(self._seen)
        kept = concatenate_over_processes(self._kept)
        if self._prediction_dir and comm.is_main_process():
            os.makedirs(self._prediction_dir, exist_ok=True)
            with open(os.path.join(self._prediction_dir, "predictions.json"), "w") as file:
                json.dump({**self._truth, "annotations": kept}, file)
        if not self._annotation:
            return None
        require_every_image([str(i) for i in seen], [str(i) for i in self._annotation], self._name)
        scores = self._counts.scores()
        if not comm.is_main_process():
            return None
        logger.info("Panoptic segmentation: %s", {k: round(v, 3) for k, v in scores.items()})
        return OrderedDict(panoptic_seg=scores)


def in_dataset_ids(ids: torch.Tensor, segments: list[dict] | None, metadata: Metadata) -> tuple[np.ndarray, list[dict]]:
    """A panoptic prediction with the data set's category ids.

    Args:
        ids: H,W segment ids, 0 for void; without ``segments`` ``category * label_divisor + number``, -1 for void.
        segments: with "id", "category_id" and "isthing", contiguous category ids; without "isthing" they are the data
            set's; or None.
        metadata: the metadata of the data set.

    Returns:
        H,W int64 ids of segments, 0 for void, and ``{"id", "category_id"}`` of each.
    """
    dataset_id = {
        kind: {v: k for k, v in metadata.get(f"{kind}_dataset_id_to_contiguous_id").items()}
        for kind in ("thing", "stuff")
    }
    ids = ids.cpu().numpy().astype(np.int64)
    if segments is None:
        divisor, things = metadata.label_divisor, dataset_id["thing"]
        categories = {int(value): int(value) // divisor for value in np.unique(ids) if value != -1}
        segments = [{"id": v + 1, "category_id": c, "isthing": c in things} for v, c in categories.items()]
        ids = ids + 1  # from -1 to 0 for void
    converted = []
    for segment in segments:
        category = segment["category_id"]
        if segment.get("isthing") is not None:
            category = dataset_id["thing" if segment["isthing"] else "stuff"][category]
        converted.append({"id": int(segment["id"]), "category_id": int(category)})
    return ids, converted
