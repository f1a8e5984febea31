"""Soft RoI Selection of AugFPN: Guo et al., CVPR 2020, Section 3.3, Table 5.

Legend: R regions of all images of a batch, L pyramid levels, C channels, o x o size of a region's features.
"""

import torch
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels, convert_boxes_to_pooler_format
from detectron2.structures import Boxes
from torch import nn


class SoftRoISelection(nn.Module):
    """Pools every region from every level and fuses the results. FPN pools from one level, chosen by the region's size.

    It is called like Detectron2's ``ROIPooler`` and can replace it everywhere.

    Args:
        pooler: the pooler that is replaced. Its pooling operations, one per level, are used. Its rule of assignment is
            used in :meth:`assigned_levels` only.
        fusion: L x (R,C,o,o) -> (R,C,o,o), one of ``fapn_d2.layers.spatial_fusion``.
    """

    def __init__(self, pooler: ROIPooler, fusion: nn.Module):
        super().__init__()
        self.pooler = pooler
        self.fusion = fusion
        self.output_size = pooler.output_size

    @property
    def level_poolers(self) -> nn.ModuleList:
        return self.pooler.level_poolers

    def forward(self, x: list[torch.Tensor], box_lists: list[Boxes]) -> torch.Tensor:
        """Maps of the L levels, each (N,C,H_l,W_l), and a list of boxes for each of the N images -> (R,C,o,o).

        Raises:
            ValueError: the number of maps is not L, or the number of lists of boxes is not N.
        """
        if len(x) != len(self.level_poolers) or len(box_lists) != len(x[0]):
            raise ValueError(
                f"Soft RoI Selection over {len(self.level_poolers)} levels got {len(x)} maps of {len(x[0])} images and "
                f"the boxes of {len(box_lists)}; check MODEL.ROI_HEADS.IN_FEATURES"
            )
        boxes = convert_boxes_to_pooler_format(box_lists) if box_lists else x[0].new_zeros(0, 5)
        return self.fusion([pool(features, boxes) for pool, features in zip(self.level_poolers, x)])

    def assigned_levels(self, box_lists: list[Boxes]) -> torch.Tensor:
        """The level from which FPN's rule would pool each of the R boxes, 0 for the finest (FPN, Equation 1)."""
        rule = self.pooler
        return assign_boxes_to_levels(
            box_lists, rule.min_level, rule.max_level, rule.canonical_box_size, rule.canonical_level
        )
