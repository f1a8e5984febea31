"""Average recall (AR) of box proposals, as Detectron2 computes it, in one pass over the images."""

import json
import logging
from collections import OrderedDict, defaultdict
from collections.abc import Iterable

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances, pairwise_iou
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table

from .gather import concatenate_over_processes

logger = logging.getLogger(__name__)

#: Numbers of proposals per image that are scored.
LIMITS = (100, 1000)
#: Letter in the name of the score -> least and greatest area of an object's mask in pixels, both included. An object of
#: 32^2 or 96^2 pixels counts on both sides, as in Detectron2.
AREAS = {"": (0, 1e5**2), "s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e5**2)}
#: The keys of a result, in Detectron2's order, with limit and letter.
_SCORES = {f"AR{letter}@{limit}": (limit, letter) for limit in LIMITS for letter in AREAS}


class BoxProposalEvaluator(DatasetEvaluator):
    """Recall of the ground truth's boxes by proposals, averaged over the IoU thresholds 0.5, 0.55, ..., 0.95.

    The scores equal those of Detectron2's ``COCOEvaluator``, which passes over the data set eight times: AR@100 and
    AR@1000, and both for small (ARs), medium (ARm) and large (ARl) objects, in percent. Classes do not matter; crowds
    are left out; the size of an object is the area of its mask. Proposals and objects are matched one to one: again and
    again the pair with the greatest IoU is taken. Objects of images without any proposal are not counted, as in
    Detectron2.

    Images are scored as they come, so that a process holds eight numbers per object and no proposal.

    Args:
        dataset_name: a registered data set whose metadata name a "json_file" in COCO's format.
        score: whether AR is computed. Without it, and where the file has no annotations, the result has no numbers.
    """

    def __init__(self, dataset_name: str, *, score: bool = True):
        self._metadata = MetadataCatalog.get(dataset_name)
        self._score = score
        self._truth: dict | None = None
        self._overlaps: list[dict[str, np.ndarray]] = []

    def reset(self) -> None:
        self._overlaps = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Score images.

        Args:
            inputs: records with "image_id".
            outputs: dicts with "proposals": ``Instances`` with ``proposal_boxes`` in pixels of the original image and
                ``objectness_logits``.
        """
        if not self._score:
            return
        if self._truth is None:
            self._truth = ground_truth(self._metadata.json_file)
        for record, output in zip(inputs, outputs):
            boxes, areas = self._truth.get(record["image_id"], _NOTHING)
            found = match(output["proposals"].to("cpu"), boxes, areas)
            if found:
                self._overlaps.append(found)

    def evaluate(self) -> OrderedDict:
        """{"box_proposals": {"AR@100": ..., ...}} in percent; nan where no object has the size.

        Empty on ranks other than 0.
        """
        own = {name: _joined(image[name] for image in self._overlaps) for name in _SCORES}
        scored = self._score and (self._truth is None or bool(self._truth))
        gathered = concatenate_over_processes([(own, scored)])
        if not comm.is_main_process():
            return OrderedDict()
        if not all(scored for _, scored in gathered):
            logger.info("The average recall of %s is not computed.", self._metadata.name)
            return OrderedDict(box_proposals={})
        scores = {name: average_recall(_joined(part[name] for part, _ in gathered)) for name in _SCORES}
        logger.info("Average recall of box proposals:\n%s", create_small_table(scores))
        return OrderedDict(box_proposals=scores)


_NOTHING = (torch.zeros(0, 4), torch.zeros(0))


def ground_truth(json_file: str) -> dict[int | str, tuple[torch.Tensor, torch.Tensor]]:
    """Image id -> boxes (G, 4), x0, y0, x1, y1 in pixels, and mask areas (G,) in square pixels, both float32.

    Crowds are left out. Images without objects are left out. A file without annotations gives an empty dict.
    """
    with PathManager.open(json_file) as file:
        annotations = json.load(file).get("annotations", [])
    objects = defaultdict(list)
    for annotation in annotations:
        if annotation.get("iscrowd", 0) == 0:
            objects[annotation["image_id"]].append((*annotation["bbox"], annotation["area"]))
    truth = {}
    for image, rows in objects.items():
        values = torch.tensor(rows, dtype=torch.float32)
        boxes = torch.cat([values[:, :2], values[:, :2] + values[:, 2:4]], dim=1)
        truth[image] = (boxes, values[:, 4])
    return truth


def match(proposals: Instances, boxes: torch.Tensor, areas: torch.Tensor) -> dict[str, np.ndarray]:
    """The IoU of each object with the proposal that it is matched to, for each score.

    Args:
        proposals: ``Instances`` with ``proposal_boxes`` and ``objectness_logits``, N proposals in any order.
        boxes: the boxes (G, 4) of the objects, x0, y0, x1, y1 in pixels.
        areas: the areas (G,) of the objects' masks.

    Returns:
        Name of the score -> float32 IoUs of the objects that have the size, in any order; 0 where nothing is matched.
        Empty if there are no proposals or no objects.
    """
    if len(boxes) == 0 or len(proposals) == 0:
        return {}
    order = proposals.objectness_logits.sort(descending=True)[1][: max(LIMITS)]
    # Detectron2's own function: other ways to compute the IoU round differently.
    overlaps = pairwise_iou(proposals.proposal_boxes[order], type(proposals.proposal_boxes)(boxes)).numpy()
    members = {letter: ((areas >= low) & (areas <= high)).numpy() for letter, (low, high) in AREAS.items()}
    found = {}
    for limit in LIMITS:
        shown = np.ascontiguousarray(overlaps[:limit].T)  # one row per object
        best = shown.argmax(axis=1)
        values = shown[np.arange(len(shown)), best]
        for letter, chosen in members.items():
            found[f"AR{letter}@{limit}"] = _one_to_one(shown[chosen], best[chosen], values[chosen])
    return found


def _one_to_one(overlaps: np.ndarray, best: np.ndarray, values: np.ndarray) -> np.ndarray:
    """IoUs of a matching that takes the greatest remaining IoU again and again.

    Args:
        overlaps: (G, N); not changed.
        best: each object's proposal with the greatest IoU, the first of equals.
        values: IoU of each object with it.
    """
    if len(np.unique(best)) == len(best):  # every object gets its best proposal, in whatever order
        return values
    overlaps, best, values = overlaps.copy(), best.copy(), values.copy()
    matched = np.zeros(len(values), np.float32)
    left = np.ones(len(values), bool)
    for _ in range(min(overlaps.shape)):
        chosen = int(np.where(left, values, -1).argmax())
        matched[chosen], left[chosen] = values[chosen], False
        taken = best[chosen]
        overlaps[:, taken] = -1
        again = np.flatnonzero(left & (best == taken))  # only these have to look for another proposal
        if len(again):
            best[again] = overlaps[again].argmax(axis=1)
            values[again] = overlaps[again, best[again]]
    return matched


def average_recall(overlaps: np.ndarray) -> float:
    """Mean of the recalls at IoU 0.5, 0.55, ..., 0.95 in percent; nan for no objects.

    Args:
        overlaps: (G,) float32, the IoU of each object with its proposal.
    """
    values = torch.from_numpy(overlaps)
    # Detectron2 computes in float32, and its thresholds are sums in float32.
    thresholds = torch.arange(0.5, 0.95 + 1e-5, 0.05, dtype=torch.float32)
    recalls = torch.stack([(values >= threshold).float().sum() for threshold in thresholds]) / float(len(values))
    return float(recalls.mean().item() * 100)


def _joined(arrays: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.float32), *arrays])
