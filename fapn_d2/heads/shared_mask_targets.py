"""Mask targets that several heads share: they are cropped from the ground truth once, not once per head.

Polygons are rasterised on the CPU. With the main head and four auxiliary heads this would be done five times.
"""

from typing import Any

import torch
from detectron2.structures import Instances


class SharedMaskTargets:
    """Ground-truth masks of one image's regions, which keep the result of the last crop.

    Args:
        masks: Detectron2's ``PolygonMasks`` or ``BitMasks``.
    """

    def __init__(self, masks: Any):
        self.masks = masks
        self._boxes: torch.Tensor | None = None
        self._size = 0
        self._crops: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.masks)

    def crop_and_resize(self, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
        """Boxes (B,4) -> (B,mask_size,mask_size), as ``masks.crop_and_resize``."""
        if boxes is not self._boxes or mask_size != self._size:
            self._crops = self.masks.crop_and_resize(boxes, mask_size)
            self._boxes, self._size = boxes, mask_size
        return self._crops


def share_mask_targets(instances: list[Instances]) -> None:
    """Wrap the field ``gt_masks`` of each image that has it, in place."""
    for image in instances:
        if image.has("gt_masks"):
            image.gt_masks = SharedMaskTargets(image.gt_masks)
