"""Time of scoring, ours and the official implementation's, on generated predictions of real size.

Each function writes its files, scores them in both ways, and returns the difference of the numbers.
"""

import contextlib
import functools
import io
import json
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation.coco_evaluation import _evaluate_box_proposals
from PIL import Image
from pycocotools.coco import COCO
from scipy import ndimage

from ..data.panoptic_png import read_segment_ids
from ..data.reading import read_labels
from ..evaluation.boundary_iou import PAPER_WIDTHS, BoundaryConfusion, boundary_rings
from ..evaluation.cityscapes.counts import label_table
from ..evaluation.cityscapes.official import semantic_scores
from ..evaluation.cityscapes.semantic import OFFICIAL_NAMES, CityscapesSemSegEvaluator
from ..evaluation.panoptic_counts import PanopticCounts
from ..evaluation.proposals import BoxProposalEvaluator
from .scenes import FIRST, box_proposals, coco_boxes, panoptic_pairs, street_scenes

CATEGORIES = [{"id": i, "isthing": int(i <= 80)} for i in range(1, 134)]


@dataclass(frozen=True)
class Timing:
    """One measure, computed in both ways from the same files.

    Attributes:
        measure: the name of the scores.
        reference: the other implementation, always in one process, as it is designed.
        seconds_per_image: our wall time with ``processes`` processes.
        reference_seconds_per_image: wall time of the other implementation.
        processes: number of our processes.
        images: number of images of the data set.
        difference: the largest difference of the numbers, in percentage points (boundary: in pixels).
    """

    measure: str
    reference: str
    seconds_per_image: float
    reference_seconds_per_image: float
    processes: int
    images: int
    difference: float

    def projected(self) -> tuple[float, float]:
        """Seconds for the whole data set, ours and the other implementation's."""
        return self.seconds_per_image * self.images, self.reference_seconds_per_image * self.images


def cityscapes(folder: Path, *, images: int, processes: int, size: tuple[int, int] = (1024, 2048)) -> Timing:
    """From a network's scores to IoU, iIoU, IoU_sup and iIoU_sup on the CPU, compared with what Detectron2 does: arg
    max, a PNG for each image, the official script."""
    stems = street_scenes(folder / "town", images, size)
    name = f"benchmark_{folder.name}"
    MetadataCatalog.get(name).gt_dir = str(folder)
    ours = _seconds(partial(_score_cityscapes, name), stems, processes)
    expected, theirs = _official_cityscapes(stems)
    evaluator = _score_cityscapes(name, stems)
    found = evaluator.evaluate()["sem_seg"]
    MetadataCatalog.remove(name)
    return Timing(
        measure="Cityscapes: IoU, iIoU, IoU_sup, iIoU_sup",
        reference="arg max, PNGs, cityscapesscripts",
        seconds_per_image=ours / images,
        reference_seconds_per_image=theirs / images,
        processes=processes,
        images=500,
        difference=max(abs(found[k] - 100 * expected[official]) for k, official in OFFICIAL_NAMES.items()),
    )


def boundary(folder: Path, *, images: int, processes: int, size: tuple[int, int] = (1024, 2048)) -> Timing:
    """Boundary mIoU at the paper's widths, compared with an exact distance transform for each label of one image."""
    stems = street_scenes(folder, images, size)
    ours = _seconds(_score_boundary, stems, processes)
    labels = _train_ids(stems[0])
    start = time.perf_counter()
    expected = _rings_by_distance(labels)
    theirs = time.perf_counter() - start
    return Timing(
        measure="boundary mIoU at 3, 5, 8 and 12 px",
        reference="a distance transform per label",
        seconds_per_image=ours / images,
        reference_seconds_per_image=theirs,
        processes=processes,
        images=500,
        difference=float(np.count_nonzero(boundary_rings(labels) != expected)),
    )


def panoptic(folder: Path, *, images: int, processes: int, size: tuple[int, int] = (480, 640)) -> Timing:
    """PQ, SQ and RQ of things and stuff, compared with panopticapi on the same PNGs."""
    from panopticapi.evaluation import pq_compute_single_core

    pairs = panoptic_pairs(folder, images, size)
    ours = _seconds(partial(_score_panoptic, folder), pairs, processes)
    scores = _score_panoptic(folder, pairs)
    by_id = {category["id"]: category for category in CATEGORIES}
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        statistics = pq_compute_single_core(0, pairs, str(folder), str(folder), by_id)
    theirs = time.perf_counter() - start
    differences = [
        abs(scores[name.upper() + suffix] - 100 * statistics.pq_average(by_id, isthing)[0][name])
        for suffix, isthing in (("", None), ("_th", True), ("_st", False))
        for name in ("pq", "sq", "rq")
    ]
    return Timing(
        measure="COCO panoptic: PQ, SQ, RQ",
        reference="panopticapi",
        seconds_per_image=ours / images,
        reference_seconds_per_image=theirs / images,
        processes=processes,
        images=5000,
        difference=max(differences),
    )


def coco(folder: Path, *, images: int, processes: int = 1) -> Timing:
    """Box AP of hotcoco compared with pycocotools, without loading. hotcoco uses threads instead of processes."""
    import hotcoco
    from pycocotools.cocoeval import COCOeval

    annotations, found = coco_boxes(images)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "boxes.json"
    path.write_text(json.dumps(annotations))
    ours, stats = _coco_seconds(hotcoco.COCO, hotcoco.COCOeval, path, found)
    theirs, expected = _coco_seconds(COCO, COCOeval, path, found)
    return Timing(
        measure="COCO: box AP by hotcoco",
        reference="pycocotools",
        seconds_per_image=ours / images,
        reference_seconds_per_image=theirs / images,
        processes=processes,
        images=5000,
        difference=100 * float(np.abs(stats - expected).max()),
    )


def proposals(folder: Path, *, images: int, processes: int, per_image: int = 1000) -> Timing:
    """AR of box proposals at 100 and 1000, for all objects and by size, compared with Detectron2's eight passes."""
    annotations, _ = coco_boxes(images)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "boxes.json"
    path.write_text(json.dumps(annotations))
    name = f"benchmark_{folder.name}"
    MetadataCatalog.get(name).set(json_file=str(path))
    found = box_proposals(annotations, per_image)
    ours = _seconds(partial(_score_proposals, name, str(path)), found, processes)
    scores = _score_proposals(name, str(path), found).evaluate()["box_proposals"]
    MetadataCatalog.remove(name)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
    predictions = [{"image_id": image, "proposals": instances} for image, instances in found]
    start = time.perf_counter()
    expected = {
        f"AR{letter}@{limit}": 100 * _evaluate_box_proposals(predictions, truth, area=area, limit=limit)["ar"].item()
        for limit in (100, 1000)
        for area, letter in (("all", ""), ("small", "s"), ("medium", "m"), ("large", "l"))
    }
    theirs = time.perf_counter() - start
    return Timing(
        measure="COCO: AR of box proposals",
        reference="Detectron2, eight passes",
        seconds_per_image=ours / images,
        reference_seconds_per_image=theirs / images,
        processes=processes,
        images=5000,
        difference=max(abs(scores[key] - value) for key, value in expected.items()),
    )


def _score_proposals(name: str, path: str, found: list) -> BoxProposalEvaluator:
    MetadataCatalog.get(name).json_file = path  # started processes may not have it
    evaluator = BoxProposalEvaluator(name)
    for image, instances in found:
        evaluator.process([{"image_id": image}], [{"proposals": instances}])
    return evaluator


def _seconds(score: Callable[[list], object], items: Sequence, processes: int) -> float:
    """Wall time of scoring shares of ``items`` in parallel, without the time to start the processes."""
    shares = [list(items[i::processes]) for i in range(processes)]
    # one thread each, because processes are counted
    with ProcessPoolExecutor(processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(score, [list(items[:1])] * processes))  # fills caches
        start = time.perf_counter()
        list(pool.map(score, shares))
        return time.perf_counter() - start


@functools.cache
def _network_output(prediction: Path) -> torch.Tensor:
    """(19, H, W) scores whose maximum is the prediction of one scene; made once, because only scoring is timed."""
    train_ids = torch.from_numpy(label_table().train_id[read_labels(str(prediction))].astype(np.int64))
    scores = torch.rand(19, *train_ids.shape, generator=torch.Generator().manual_seed(0))
    return scores.scatter_add_(0, train_ids[None], torch.ones(1, *train_ids.shape))


def _score_cityscapes(name: str, stems: list[Path]) -> CityscapesSemSegEvaluator:
    evaluator = CityscapesSemSegEvaluator(name)
    scores = _network_output(stems[0].with_name(FIRST + "_pred.png"))
    for stem in stems:
        evaluator.process([{"file_name": f"{stem}_leftImg8bit.png"}], [{"sem_seg": scores}])
    return evaluator


def _official_cityscapes(stems: list[Path]) -> tuple[dict, float]:
    scores = _network_output(stems[0].with_name(FIRST + "_pred.png"))
    start = time.perf_counter()
    pairs = []
    for stem in stems:
        Image.fromarray(label_table().label_id[scores.argmax(dim=0).numpy()]).save(f"{stem}_official.png")
        pairs.append((f"{stem}_official.png", f"{stem}_gtFine_labelIds.png"))
    return semantic_scores(pairs), time.perf_counter() - start


def _score_boundary(stems: list[Path]) -> dict[str, float]:
    confusion = BoundaryConfusion(19, ignore_label=255)
    for stem in stems:
        confusion.update(label_table().train_id[read_labels(f"{stem}_pred.png")], _train_ids(stem))
    return confusion.scores()


def _train_ids(stem: Path) -> np.ndarray:
    return label_table().train_id[read_labels(f"{stem}_gtFine_labelIds.png")]


def _rings_by_distance(labels: np.ndarray) -> np.ndarray:
    """The definition, for each label: the distance from each of its pixels to the nearest pixel of another label."""
    distance = np.full(labels.shape, math.inf)
    for label in np.unique(labels):
        own = labels == label
        distance[own] = ndimage.distance_transform_edt(own)[own] if not own.all() else math.inf
    return np.sum([distance > width for width in PAPER_WIDTHS], axis=0)


def _score_panoptic(folder: Path, pairs: list[tuple[dict, dict]]) -> dict[str, float]:
    counts = PanopticCounts(CATEGORIES)
    for true, found in pairs:
        images = (read_segment_ids(str(folder / a["file_name"])) for a in (true, found))
        truth, prediction = images
        counts.update(truth, true["segments_info"], prediction.astype(np.int64), found["segments_info"])
    return counts.scores()


def _coco_seconds(
    annotations: Callable, evaluation: Callable, path: Path, found: list[dict]
) -> tuple[float, np.ndarray]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = annotations(str(path))
        scored = evaluation(truth, truth.loadRes([dict(f) for f in found]), "bbox")
        start = time.perf_counter()
        scored.evaluate()
        scored.accumulate()
        seconds = time.perf_counter() - start
        scored.summarize()
    return seconds, np.array(scored.stats)
