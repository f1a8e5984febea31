"""Meta-architectures that Detectron2 lacks, or builds from Python configs only."""

from .consistent_dense import ConsistentFCOS, ConsistentRetinaNet
from .fcos import FCOS
from .semantic_inference import SemanticInference, build_inference, check_inference
from .whole_image_segmentor import WholeImageSegmentor

__all__ = [
    "FCOS",
    "ConsistentFCOS",
    "ConsistentRetinaNet",
    "SemanticInference",
    "WholeImageSegmentor",
    "build_inference",
    "check_inference",
]
