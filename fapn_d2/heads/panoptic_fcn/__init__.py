"""The parts of PanopticFCN: Li et al., "Fully Convolutional Networks for Panoptic Segmentation", CVPR 2021.

Letters, for all files of this folder: N images, K classes of things, S classes of the semantic branch (class 0 stands
for all things together), h x w size of a level, H x W size of the finest map (stride 4), C channels of the kernel map,
E channels of a kernel and of the encoded feature.
"""

from .feature_encoder import FeatureEncoder, SemanticFPN
from .kernel_head import KernelEmbedding, KernelHead
from .position_head import PositionHead

__all__ = ["FeatureEncoder", "KernelEmbedding", "KernelHead", "PositionHead", "SemanticFPN"]
