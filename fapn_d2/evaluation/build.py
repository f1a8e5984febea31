"""Which evaluators a data set needs."""

import os
from collections.abc import Callable

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import (
    COCOEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
)

from .cityscapes import CityscapesSemSegEvaluator
from .cityscapes_instance import CityscapesInstanceEvaluator
from .sem_seg import SemSegEvaluator

Builder = Callable[[CfgNode, str, str], DatasetEvaluator]


def _coco(cfg: CfgNode, name: str, folder: str) -> DatasetEvaluator:
    return COCOEvaluator(name, output_dir=folder, kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS)


def _panoptic(cfg: CfgNode, name: str, folder: str) -> DatasetEvaluator:
    return COCOPanopticEvaluator(name, folder)


def _sem_seg(cfg: CfgNode, name: str, folder: str) -> DatasetEvaluator:
    return SemSegEvaluator(name, folder, boundary_widths=cfg.TEST.BOUNDARY_WIDTHS)


def _cityscapes_sem_seg(cfg: CfgNode, name: str, folder: str) -> DatasetEvaluator:
    official = cfg.TEST.BACKEND == "official"
    kept = folder if official or cfg.TEST.KEEP_PREDICTIONS else None
    return CityscapesSemSegEvaluator(
        name,
        prediction_dir=kept and os.path.join(kept, "cityscapes_semantic"),
        boundary_widths=cfg.TEST.BOUNDARY_WIDTHS,
        official=official,
    )


def _cityscapes_instance(cfg: CfgNode, name: str, folder: str) -> DatasetEvaluator:
    kept = os.path.join(folder, "cityscapes_instances") if cfg.TEST.KEEP_PREDICTIONS else None
    return CityscapesInstanceEvaluator(name, prediction_dir=kept)


def _voc(cfg: CfgNode, name: str, folder: str) -> DatasetEvaluator:
    return PascalVOCDetectionEvaluator(name)


def _lvis(cfg: CfgNode, name: str, folder: str) -> DatasetEvaluator:
    return LVISEvaluator(name, output_dir=folder)


#: "evaluator_type" in a data set's metadata -> what scores it.
EVALUATORS: dict[str, tuple[Builder, ...]] = {
    "coco": (_coco,),
    "coco_panoptic_seg": (_coco, _sem_seg, _panoptic),
    "sem_seg": (_sem_seg,),
    "cityscapes_sem_seg": (_cityscapes_sem_seg,),
    "cityscapes_instance": (_cityscapes_instance,),
    "pascal_voc": (_voc,),
    "lvis": (_lvis,),
}


def build_evaluator(cfg: CfgNode, dataset_name: str, output_folder: str) -> DatasetEvaluator:
    """What scores a data set, by the "evaluator_type" of its metadata; all that the data set has labels for.

    Args:
        cfg: TEST is read.
        dataset_name: a registered data set.
        output_folder: for predictions and tables.

    Returns:
        An evaluator whose result has a task a key: "bbox", "segm", "sem_seg", "panoptic_seg".

    Raises:
        ValueError: the data set has no "evaluator_type", or one that is unknown.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind not in EVALUATORS:
        raise ValueError(
            f"the data set {dataset_name} has the evaluator_type {kind!r}; known are {', '.join(EVALUATORS)}"
        )
    builders = EVALUATORS[kind]
    if kind == "coco_panoptic_seg" and "sem_seg_file_name" not in DatasetCatalog.get(dataset_name)[0]:
        # Detectron2's "standard" panoptic data sets have no semantic label images.
        builders = tuple(builder for builder in builders if builder is not _sem_seg)
    evaluators = [builder(cfg, dataset_name, output_folder) for builder in builders]
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)
