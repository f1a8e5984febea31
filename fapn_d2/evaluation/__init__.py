"""Evaluation: the evaluators that Detectron2 lacks, and the choice of the evaluators for a data set."""

from .boundary_iou import BoundaryConfusion
from .build import EVALUATORS, build_evaluator
from .cityscapes.instance import CityscapesInstanceEvaluator
from .cityscapes.semantic import CityscapesSemSegEvaluator
from .coco import FastCOCOEvaluator
from .panoptic import PanopticEvaluator
from .sem_seg import SemSegEvaluator

__all__ = [
    "EVALUATORS",
    "BoundaryConfusion",
    "CityscapesInstanceEvaluator",
    "CityscapesSemSegEvaluator",
    "FastCOCOEvaluator",
    "PanopticEvaluator",
    "SemSegEvaluator",
    "build_evaluator",
]
