"""COCO's box and mask AP in seconds instead of minutes, where the package hotcoco is installed."""

import importlib.util
import itertools
import json
import logging
import os
import warnings

from detectron2.evaluation import COCOEvaluator
from detectron2.utils.file_io import PathManager

logger = logging.getLogger(__name__)


class FastCOCOEvaluator(COCOEvaluator):
    """Detectron2's ``COCOEvaluator`` with hotcoco, which computes the same numbers as pycocotools, for boxes and masks.

    Arguments and results are those of the parent class: AP, AP50, AP75, APs, APm, APl and the AP of each class, for
    "bbox" and "segm". The parent class does the work if hotcoco is not installed, for keypoints, and if hotcoco cannot
    read the annotations (for example, it requires whole numbers as image ids).
    """

    def _eval_predictions(self, predictions: list[dict], img_ids: list[int] | None = None) -> None:
        results = list(itertools.chain.from_iterable(p["instances"] for p in predictions))
        tasks = sorted(self._tasks or self._tasks_from_predictions(results))
        truth = self._truth() if results and self._do_evaluation and "keypoints" not in tasks else None
        if truth is None:
            super()._eval_predictions(predictions, img_ids)
            return
        results = self._in_dataset_ids(results)
        if self._output_dir:
            with PathManager.open(os.path.join(self._output_dir, "coco_instances_results.json"), "w") as file:
                json.dump(results, file)
        for task in tasks:
            scored = self._score(truth, results, task, img_ids)
            self._results[task] = self._derive_coco_results(
                scored, task, class_names=self._metadata.get("thing_classes")
            )

    def _truth(self):
        """The annotations as hotcoco's ``COCO``, or None."""
        if not hotcoco_installed():
            return None
        import hotcoco

        path = PathManager.get_local_path(self._metadata.json_file)
        try:
            return hotcoco.COCO(path)
        except ValueError as error:
            logger.warning("hotcoco cannot read %s (%s); pycocotools scores instead, which takes longer", path, error)
            return None

    def _in_dataset_ids(self, results: list[dict]) -> list[dict]:
        if not hasattr(self._metadata, "thing_dataset_id_to_contiguous_id"):
            return results
        dataset_id = {v: k for k, v in self._metadata.thing_dataset_id_to_contiguous_id.items()}
        if unknown := {r["category_id"] for r in results} - dataset_id.keys():
            raise ValueError(
                f"the network predicts class {max(unknown)}; {self._metadata.name} has the classes "
                f"0..{max(dataset_id)}: set MODEL.ROI_HEADS.NUM_CLASSES or MODEL.RETINANET.NUM_CLASSES to "
                f"{len(dataset_id)}"
            )
        return [{**r, "category_id": dataset_id[r["category_id"]]} for r in results]

    def _score(self, truth, results: list[dict], task: str, img_ids: list[int] | None):
        import hotcoco

        if task == "segm":
            # Without boxes, the areas of masks decide which objects are small, medium and large; otherwise boxes would.
            results = [{k: v for k, v in r.items() if k != "bbox"} for r in results]
        scored = hotcoco.COCOeval(truth, truth.loadRes(results), task)
        scored.params.maxDets = list(self._max_dets_per_image)
        if img_ids is not None:
            scored.params.imgIds = list(img_ids)
        scored.evaluate()
        scored.accumulate()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="hotcoco: max_dets differ")  # these limits were requested
            scored.summarize()
        return scored


def hotcoco_installed() -> bool:
    """Whether the package hotcoco can be imported."""
    return importlib.util.find_spec("hotcoco") is not None
