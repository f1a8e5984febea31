"""Scores of predictions: which evaluator a data set needs, and those that Detectron2 lacks."""

from .build import EVALUATORS, build_evaluator
from .sem_seg import SemSegEvaluator

__all__ = ["EVALUATORS", "SemSegEvaluator", "build_evaluator"]
