"""Average recall (AR) of proposals, in one pass over the images: of boxes, as Detectron2 computes it, and of segments,
as pycocotools does."""

import contextlib
import io
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
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..layers.region_masks import RegionMasks
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


class SegmentProposalEvaluator(DatasetEvaluator):
    """Recall of the ground truth's masks by proposed masks, averaged over the IoU thresholds 0.5, 0.55, ..., 0.95.

    The scores equal those of pycocotools with iouType "segm", useCats 0 and maxDets [100, 1000]: AR@100 and AR@1000,
    and both for small (ARs), medium (ARm) and large (ARl) objects, in percent. Classes do not matter. Crowds and
    objects of another size take no proposal from the objects that count, so they are left out. At each threshold
    proposals choose in the order of their scores: each takes, of the objects that are left, the one with the greatest
    IoU.

    Images are scored as they come, so that a process holds ten counts per score and no mask. Only images that were
    processed count: a part of a data set is scored with the annotations of the whole.

    Args:
        dataset_name: a registered data set whose metadata name a "json_file" in COCO's format.
        score: whether AR is computed. Without it, and where the file has no annotations, the result has no numbers.
        official: score with pycocotools itself, which holds all masks of all images as run lengths.
    """

    def __init__(self, dataset_name: str, *, score: bool = True, official: bool = False):
        self._metadata = MetadataCatalog.get(dataset_name)
        self._score = score
        self._official = official
        self._truth: dict | None = None
        self.reset()

    def reset(self) -> None:
        self._counts = {name: np.zeros(len(SEGMENT_THRESHOLDS) + 1, np.int64) for name in _SCORES}
        self._predictions: list[tuple[int | str, np.ndarray, list[dict]]] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Score images.

        Args:
            inputs: records with "image_id".
            outputs: dicts with "proposals": ``Instances`` with ``objectness_logits`` and ``proposal_masks``
                (:class:`RegionMasks` on the original image).

        Raises:
            ValueError: the masks are on an image of another size than the annotations.
        """
        if not self._score:
            return
        if self._truth is None:
            self._truth = segment_ground_truth(self._metadata.json_file)
        for record, output in zip(inputs, outputs):
            found, image = output["proposals"], record["image_id"]
            order = found.objectness_logits.sort(descending=True, stable=True)[1][: max(LIMITS)]
            masks: RegionMasks = found.proposal_masks[order]
            if self._official:
                logits = found.objectness_logits[order].double().cpu().numpy()
                self._predictions.append((image, logits, masks.run_lengths()))
                continue
            size, objects = self._truth.get(image, (None, []))
            if not objects:
                continue
            if tuple(size) != masks.image_size:
                raise ValueError(
                    f"image {image} has {size[0]} x {size[1]} pixels (H x W) in {self._metadata.json_file}, its "
                    f"proposals are for {masks.image_size[0]} x {masks.image_size[1]}"
                )
            truth = [_rle(annotation["segmentation"], size) for annotation in objects]
            overlaps = np.zeros((0, len(truth)))
            if len(masks):
                overlaps = np.asarray(coco_mask.iou(masks.run_lengths(), truth, [0] * len(truth)))
            areas = np.array([annotation["area"] for annotation in objects], np.float64)
            for name, counts in segment_recalls(overlaps, areas).items():
                self._counts[name] += counts

    def evaluate(self) -> OrderedDict:
        """{"mask_proposals": {"AR@100": ..., ...}} in percent; nan where no object has the size.

        Empty on ranks other than 0.
        """
        scored = self._score and (self._truth is None or bool(self._truth))
        gathered = concatenate_over_processes([(self._counts, self._predictions, scored)])
        if not comm.is_main_process():
            return OrderedDict()
        if not all(ok for _, _, ok in gathered):
            logger.info("The average recall of %s is not computed.", self._metadata.name)
            return OrderedDict(mask_proposals={})
        if self._official:
            predictions = [image for _, part, _ in gathered for image in part]
            scores = _pycocotools_scores(self._metadata.json_file, predictions)
        else:
            scores = {}
            for name in _SCORES:
                *hits, objects = np.sum([counts[name] for counts, _, _ in gathered], axis=0)
                scores[name] = float(100 * np.mean(np.array(hits) / objects)) if objects else float("nan")
        logger.info("Average recall of segment proposals:\n%s", create_small_table(scores))
        return OrderedDict(mask_proposals=scores)


#: pycocotools' IoU thresholds, to the bit.
SEGMENT_THRESHOLDS = np.linspace(0.5, 0.95, 10)


def segment_ground_truth(json_file: str) -> dict[int | str, tuple[tuple[int, int], list[dict]]]:
    """Image id -> (height, width) and the annotations that are no crowds, in pycocotools' order.

    Images without objects are left out. A file without annotations gives an empty dict.
    """
    with PathManager.open(json_file) as file:
        content = json.load(file)
    objects = defaultdict(list)
    for annotation in content.get("annotations", []):
        if annotation.get("iscrowd", 0) == 0:
            objects[annotation["image_id"]].append(annotation)
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    # pycocotools lists the objects class by class; the order decides where overlaps are equal.
    return {image: (sizes[image], sorted(found, key=lambda a: a["category_id"])) for image, found in objects.items()}


def segment_recalls(overlaps: np.ndarray, areas: np.ndarray) -> dict[str, np.ndarray]:
    """Name of the score -> (11,) int64: objects found at each of ``SEGMENT_THRESHOLDS``, and objects of the size.

    Args:
        overlaps: (N,G), IoU of the proposals, best score first, with the objects.
        areas: of the objects' masks, (G,).
    """
    members = {letter: (areas >= low) & (areas <= high) for letter, (low, high) in AREAS.items()}
    found = {}
    for name, (limit, letter) in _SCORES.items():
        hits = found_objects(overlaps[:limit, members[letter]])
        found[name] = np.append(hits.sum(axis=1), members[letter].sum())
    return found


def found_objects(overlaps: np.ndarray) -> np.ndarray:
    """(10,G) bool: which objects have a proposal at each of ``SEGMENT_THRESHOLDS``.

    Args:
        overlaps: (N,G), IoU of the proposals, best score first, with the objects.
    """
    thresholds = SEGMENT_THRESHOLDS[:, None]
    if overlaps.size == 0:
        return np.zeros((len(thresholds), overlaps.shape[1]), bool)
    found = overlaps.max(axis=0) >= thresholds  # true of objects that share no proposal with another one
    near = overlaps >= thresholds[0]
    contested = near[near.sum(axis=1) > 1].any(axis=0)
    if contested.any():
        found[:, contested] = _choose_in_turn(overlaps[:, contested], thresholds)
    return found


def _choose_in_turn(overlaps: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """(T,G) bool: the objects that proposals take, one after the other, for each of ``thresholds`` (T,1)."""
    taken = np.zeros((len(thresholds), overlaps.shape[1]), bool)
    rows = np.arange(len(thresholds))
    for overlap in overlaps[overlaps.max(axis=1) >= thresholds[0]]:
        left = np.where(taken, -1.0, overlap)
        best = left.shape[1] - 1 - left[:, ::-1].argmax(axis=1)  # of equal overlaps pycocotools takes the last
        enough = left[rows, best] >= thresholds[:, 0]
        taken[rows[enough], best[enough]] = True
        if taken.all():
            break
    return taken


def _rle(segmentation: dict | list, size: tuple[int, int]) -> dict:
    """COCO's segmentation, polygons or run lengths, as compressed run lengths."""
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, *size)
    return segmentation


def _pycocotools_scores(json_file: str, predictions: list[tuple[int | str, np.ndarray, list[dict]]]) -> dict:
    """Scores of (image id, logits, run lengths) by pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(PathManager.get_local_path(json_file))
        category = min(truth.getCatIds())  # any: classes do not matter
        results = [
            {"image_id": image, "category_id": category, "segmentation": mask, "score": float(logit)}
            for image, logits, masks in predictions
            for logit, mask in zip(logits, masks)
        ]
        evaluation = COCOeval(truth, truth.loadRes(results) if results else COCO(), "segm")
        if not results:
            evaluation.cocoDt.createIndex()
        parameters = evaluation.params
        parameters.useCats, parameters.maxDets = 0, list(LIMITS)
        parameters.imgIds = [image for image, _, _ in predictions]
        evaluation.evaluate()
        evaluation.accumulate()
    recalls = evaluation.eval["recall"][:, 0]  # (thresholds, sizes, limits)
    scores = {}
    for name, (limit, letter) in _SCORES.items():
        values = recalls[:, list(AREAS).index(letter), LIMITS.index(limit)]
        values = values[values > -1]
        scores[name] = float(100 * values.mean()) if len(values) else float("nan")
    return scores
