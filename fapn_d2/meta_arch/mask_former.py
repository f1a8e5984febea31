"""MaskFormer: Cheng et al., NeurIPS 2021, with the pixel decoders of that paper and of FaPN.

Letters: N images, Q queries, K classes, L layers of the decoder, H x W size of an image, h x w of the predicted masks.
"""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY, Backbone, build_backbone
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from ..heads.mask_former.criterion import SetCriterion
from ..heads.mask_former.head import MaskFormerHead
from ..heads.mask_former.inference import panoptic_segments, semantic_scores
from ..heads.mask_former.matcher import Targets


@META_ARCH_REGISTRY.register()
class MaskFormer(nn.Module):
    """Semantic segmentation as a set of masks with classes.

    Args:
        backbone: the bottom-up network; the pyramid is part of the head.
        sem_seg_head: maps by name -> class logits and mask logits of all layers.
        criterion: losses of the predictions.
        size_divisibility: images are padded below and on the right to a multiple of it.
        deep_supervision: losses of all layers, not only of the last one.
        resize_before: masks are resized to the image before they are weighted and summed, not their sums afterwards.
        pixel_mean, pixel_std: the mean and deviation of images, one number per channel.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: MaskFormerHead,
        criterion: SetCriterion,
        size_divisibility: int,
        deep_supervision: bool = True,
        resize_before: bool = False,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ):
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.criterion = criterion
        self.size_divisibility = max(size_divisibility, backbone.size_divisibility)
        self.deep_supervision = deep_supervision
        self.resize_before = resize_before
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        backbone = build_backbone(cfg)
        head = SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.NAME)
        if not (isinstance(head, type) and issubclass(head, MaskFormerHead)):
            raise ValueError(
                f"MODEL.META_ARCHITECTURE {cls.__name__} needs MODEL.SEM_SEG_HEAD.NAME 'MaskFormerHead', got "
                f"{cfg.MODEL.SEM_SEG_HEAD.NAME!r}"
            )
        num_classes = cls.num_classes(cfg)
        return {
            "backbone": backbone,
            "sem_seg_head": head(cfg, backbone.output_shape(), num_classes=num_classes),
            "criterion": SetCriterion(cfg, num_classes),
            "size_divisibility": cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY,
            "deep_supervision": cfg.MODEL.MASK_FORMER.DEEP_SUPERVISION,
            "resize_before": cfg.MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @classmethod
    def num_classes(cls, cfg: CfgNode) -> int:
        """K of a config's network."""
        return cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Train or predict.

        Args:
            batched_inputs: for each image a dict with "image" (C, H, W); in training "instances" with ``gt_classes``
                and ``gt_masks`` (``BitMasks`` or a (T, H, W) tensor), none of which need be there; in inference
                "height" and "width", the size of the result.

        Returns:
            In training losses by name. In inference, for each image, what :meth:`predict` gives.

        Raises:
            ValueError: a sample of training has no "instances".
        """
        images = [
            (x["image"].to(self.device, non_blocking=True) - self.pixel_mean) / self.pixel_std for x in batched_inputs
        ]
        images = ImageList.from_tensors(images, self.size_divisibility)
        features = self.backbone(images.tensor)
        last_only = not (self.training and self.deep_supervision)
        logits, masks = self.sem_seg_head(features, last_only=last_only)
        if self.training:
            size = tuple(images.tensor.shape[-2:])
            return self.criterion(logits, masks, [self._targets(x, size) for x in batched_inputs])
        return [
            self._predict_one(logits[-1, i], masks[-1, i], images, i, x.get("height"), x.get("width"))
            for i, x in enumerate(batched_inputs)
        ]

    def _targets(self, sample: dict, size: tuple[int, int]) -> Targets:
        """Regions of one image, on the padded ``size``."""
        if "instances" not in sample:
            raise ValueError(
                f"{type(self).__name__} is trained on regions, but a sample has no 'instances'; set INPUT.REGIONS, so "
                "that they are made from labels"
            )
        instances: Instances = sample["instances"]
        if not len(instances) or not instances.has("gt_masks"):
            none = torch.zeros(0, dtype=torch.long, device=self.device)
            return Targets(none, torch.zeros(0, *size, dtype=torch.bool, device=self.device))
        masks = instances.gt_masks
        masks = getattr(masks, "tensor", masks)
        if not isinstance(masks, Tensor):
            raise ValueError(
                f"{type(self).__name__} needs masks of pixels, but gt_masks are {type(masks).__name__}; set "
                'INPUT.MASK_FORMAT "bitmask"'
            )
        masks = masks.to(self.device, torch.bool, non_blocking=True)
        below, right = size[0] - masks.shape[1], size[1] - masks.shape[2]
        return Targets(instances.gt_classes.to(self.device, non_blocking=True), F.pad(masks, (0, right, 0, below)))

    def _predict_one(self, logits, masks, images: ImageList, i: int, height: int | None, width: int | None) -> dict:
        inside = images.image_sizes[i]
        size = (inside[0] if height is None else height, inside[1] if width is None else width)
        masks = masks.to(torch.promote_types(masks.dtype, torch.float32))
        masks = F.interpolate(masks[None], images.tensor.shape[-2:], mode="bilinear", align_corners=False)[0]
        masks = masks[:, : inside[0], : inside[1]]
        return self.predict(logits.to(masks.dtype), masks, size)

    def predict(self, logits: Tensor, masks: Tensor, size: tuple[int, int]) -> dict:
        """What one image's predictions mean.

        Args:
            logits: (Q, K + 1) of classes.
            masks: the mask logits (Q, H, W) at the size of the image without padding.
            size: (height, width) of the result.

        Returns:
            "sem_seg": (K, height, width), scores that are sums of probabilities.
        """
        return {"sem_seg": self._semantic(logits, masks, size)}

    def _semantic(self, logits: Tensor, masks: Tensor, size: tuple[int, int]) -> Tensor:
        inside = tuple(masks.shape[-2:])
        if self.resize_before:
            return semantic_scores(logits, sem_seg_postprocess(masks, inside, *size))
        return sem_seg_postprocess(semantic_scores(logits, masks), inside, *size)


@META_ARCH_REGISTRY.register()
class PanopticMaskFormer(MaskFormer):
    """Panoptic segmentation by the same network.

    Its K classes are the things of MODEL.ROI_HEADS.NUM_CLASSES, then the stuff of MODEL.SEM_SEG_HEAD.NUM_CLASSES, whose
    class 0, "things", is left out: the numbering of data sets for Panoptic FPN, and the order of COCO's categories.

    Args:
        num_things: classes of objects.
        object_threshold, overlap_threshold: see :func:`panoptic_segments`.
        **kwargs: the arguments of :class:`MaskFormer`.
    """

    @configurable
    def __init__(self, *, num_things: int, object_threshold: float, overlap_threshold: float, **kwargs):
        super().__init__(**kwargs)
        self.num_things = num_things
        self.object_threshold, self.overlap_threshold = object_threshold, overlap_threshold

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        return super().from_config(cfg) | {
            "num_things": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "object_threshold": cfg.MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD,
            "overlap_threshold": cfg.MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD,
        }

    @classmethod
    def num_classes(cls, cfg: CfgNode) -> int:
        return cfg.MODEL.ROI_HEADS.NUM_CLASSES + cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES - 1

    def predict(self, logits: Tensor, masks: Tensor, size: tuple[int, int]) -> dict:
        """As :meth:`MaskFormer.predict`, with what Detectron2's ``PanopticFPN`` calls it.

        Returns:
            "panoptic_seg": (height, width) ids and segments, whose category ids are contiguous ids of things or of
            stuff; "sem_seg": scores of "things", the sum of all of them, and of each kind of stuff.
        """
        masks = sem_seg_postprocess(masks, tuple(masks.shape[-2:]), *size)
        ids, segments = panoptic_segments(
            logits,
            masks,
            things=range(self.num_things),
            object_threshold=self.object_threshold,
            overlap_threshold=self.overlap_threshold,
        )
        for segment in segments:
            if not segment["isthing"]:
                segment["category_id"] += 1 - self.num_things
        scores = semantic_scores(logits, masks)
        things = scores[: self.num_things].sum(dim=0, keepdim=True)
        return {"panoptic_seg": (ids, segments), "sem_seg": torch.cat([things, scores[self.num_things :]])}
