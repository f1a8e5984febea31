"""MaskFormer (Cheng et al., NeurIPS 2021): semantic and panoptic segmentation as a set of classified masks."""

from .criterion import SetCriterion
from .head import MaskFormerHead
from .matcher import HungarianMatcher

__all__ = ["HungarianMatcher", "MaskFormerHead", "SetCriterion"]
