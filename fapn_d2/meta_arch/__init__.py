"""Meta-architectures that Detectron2 lacks, or that it builds from Python configs only."""

from .consistent_dense import ConsistentFCOS, ConsistentRetinaNet
from .fcos import FCOS
from .mask_former import MaskFormer, PanopticMaskFormer
from .mask_proposals import MaskProposalNetwork
from .panoptic_fcn import PanopticFCN
from .panoptic_fpn import TwoTaskPanopticFPN
from .whole_image_segmentor import WholeImageSegmentor

__all__ = [
    "FCOS",
    "ConsistentFCOS",
    "ConsistentRetinaNet",
    "MaskFormer",
    "MaskProposalNetwork",
    "PanopticFCN",
    "PanopticMaskFormer",
    "TwoTaskPanopticFPN",
    "WholeImageSegmentor",
]
