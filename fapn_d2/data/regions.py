"""Training samples of networks that predict a set of regions with classes: Cheng et al., NeurIPS 2021 (MaskFormer).

Letters: C channels, H x W size of an image, T regions.
"""

import torch
from detectron2.config import CfgNode, configurable
from detectron2.structures import BitMasks, Instances
from torch import Tensor
from torch.nn import functional as F

from .mapper import PyramidDatasetMapper

REGIONS = ("semantic", "panoptic")
#: Colour of padding in training images; in testing it is the mean colour.
_GREY = 128


class RegionDatasetMapper(PyramidDatasetMapper):
    """The project's mapper, whose training samples have regions as "instances": ``gt_classes`` and ``gt_masks``.

    Args:
        is_train: whether labels are read and returned; without, this is its parent.
        regions: "semantic": one region for each class in the labels. "panoptic": the objects, then one region for each
            kind of stuff, which has class number ``num_things`` + label - 1. Label 0 is "any thing", as in data sets
            for Panoptic FPN.
        num_things: classes of objects.
        size_divisibility: images and labels are padded below and on the right to a multiple of it; below 1: not.
        **kwargs: the arguments of ``PyramidDatasetMapper``.

    Raises:
        ValueError: an unknown kind of regions, or panoptic regions without masks of objects.
    """

    @configurable
    def __init__(self, is_train: bool, *, regions: str, num_things: int = 0, size_divisibility: int = -1, **kwargs):
        super().__init__(is_train, **kwargs)
        if regions not in REGIONS:
            raise ValueError(f"INPUT.REGIONS is {regions!r}; allowed are '', {', '.join(map(repr, REGIONS))}")
        if (
            regions == "panoptic"
            and is_train
            and not (self.use_instance_mask and self.instance_mask_format == "bitmask")
        ):
            raise ValueError(
                "INPUT.REGIONS 'panoptic' takes the masks of objects: set MODEL.MASK_ON True and INPUT.MASK_FORMAT "
                "'bitmask'"
            )
        self.regions = regions
        self.num_things = num_things
        self.size_divisibility = size_divisibility

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        return super().from_config(cfg, is_train) | {
            "regions": cfg.INPUT.REGIONS,
            "num_things": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "size_divisibility": cfg.INPUT.SIZE_DIVISIBILITY,
        }

    def __call__(self, dataset_dict: dict) -> dict:
        """As the parent; in training image and "sem_seg" are padded, and "instances" are the regions.

        Raises:
            ValueError: a record of training has no semantic labels; else as the parent.
        """
        record = super().__call__(dataset_dict)
        if not self.is_train:
            return record
        if "sem_seg" not in record:
            raise ValueError(
                f"INPUT.REGIONS {self.regions!r} needs semantic labels, of which the record of {record['file_name']} "
                "has none"
            )
        record["image"] = self._padded(record["image"], _GREY)
        labels = record["sem_seg"] = self._padded(record["sem_seg"], self.ignore_value)
        classes, masks = label_regions(labels, self.ignore_value)
        if self.regions == "panoptic":
            stuff = classes > 0
            classes, masks = classes[stuff] + self.num_things - 1, masks[stuff]
            objects = record.get("instances")
            if objects is not None and objects.has("gt_masks"):
                classes = torch.cat([objects.gt_classes, classes])
                masks = torch.cat([self._padded(objects.gt_masks.tensor, False), masks])
        record["instances"] = Instances(tuple(labels.shape), gt_classes=classes, gt_masks=BitMasks(masks))
        return record

    def _padded(self, x: Tensor, value: float) -> Tensor:
        """(..., H, W), padded below and on the right."""
        if self.size_divisibility < 1:
            return x
        below, right = (-side % self.size_divisibility for side in x.shape[-2:])
        return F.pad(x, (0, right, 0, below), value=value) if below or right else x


def label_regions(labels: Tensor, ignore_value: int) -> tuple[Tensor, Tensor]:
    """(H, W) class numbers -> (T,) classes that occur, ascending, and their (T, H, W) bool masks."""
    classes = labels.unique()
    classes = classes[classes != ignore_value]
    return classes, labels == classes[:, None, None]


def build_mapper(cfg: CfgNode, *, is_train: bool) -> PyramidDatasetMapper:
    """The mapper of a config: with regions where INPUT.REGIONS asks for them.

    Raises:
        ValueError: INPUT.SIZE_DIVISIBILITY without regions; else as the mappers.
    """
    if cfg.INPUT.REGIONS:
        return RegionDatasetMapper(cfg, is_train)
    if cfg.INPUT.SIZE_DIVISIBILITY > 0:
        raise ValueError(
            "INPUT.SIZE_DIVISIBILITY pads the samples of networks that learn regions; set INPUT.REGIONS, or -1 here"
        )
    return PyramidDatasetMapper(cfg, is_train)
