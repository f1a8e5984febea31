"""Heads that Detectron2 lacks."""

from ..layers import roi_pool  # noqa: F401  (registers)
from .aligned_decoder import AlignedDecoderHead, SingleLevelHead
from .augfpn_roi_heads import AugFPNROIHeads
from .consistent_supervision import ConsistentSupervision
from .mask_former import MaskFormerHead
from .mask_proposals import MaskProposals
from .semantic_fpn import SemanticFPNHead
from .soft_roi_selection import SoftRoISelection

__all__ = [
    "AlignedDecoderHead",
    "AugFPNROIHeads",
    "ConsistentSupervision",
    "MaskFormerHead",
    "MaskProposals",
    "SemanticFPNHead",
    "SingleLevelHead",
    "SoftRoISelection",
]
