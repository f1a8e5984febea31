"""Augmentations that Detectron2 lacks, and the list of augmentations that a config describes."""

import copy
from collections.abc import Sequence

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform
from fvcore.transforms.transform import PadTransform, Transform, TransformList
from PIL import Image

from .class_uniform_sampler import SAMPLER_NAME
from .cropping import PadToSize, RandomCropAroundPoint, ResizedCrop, ResizedCropTransform


class RandomScale(T.Augmentation):
    """Resize by a random factor, the same along both axes.

    Args:
        scales: (least, greatest) factor with "range", all possible factors with "choice".
        sampling: "range" draws uniformly between the two factors; "choice" draws one of the factors.
    """

    def __init__(self, scales: Sequence[float], *, sampling: str = "range"):
        super().__init__()
        if sampling not in ("range", "choice"):
            raise ValueError(f'INPUT.SCALE_CROP.SAMPLING is "{sampling}"; allowed are "range" and "choice"')
        if not scales or min(scales) <= 0:
            raise ValueError(f"INPUT.SCALE_CROP.SCALES must be positive factors, got {scales}")
        if sampling == "range" and (len(scales) != 2 or scales[0] > scales[1]):
            raise ValueError(f'INPUT.SCALE_CROP.SCALES must be (least, greatest) with SAMPLING "range", got {scales}')
        self.scales, self.sampling = tuple(scales), sampling

    def get_transform(self, image: np.ndarray) -> Transform:
        h, w = image.shape[:2]
        scale = np.random.uniform(*self.scales) if self.sampling == "range" else np.random.choice(self.scales)
        new_h, new_w = max(int(h * scale + 0.5), 1), max(int(w * scale + 0.5), 1)
        return T.ResizeTransform(h, w, new_h, new_w, Image.BILINEAR)


def for_instance_masks(transform: Transform) -> Transform:
    """A copy of the transform for binary masks: it pads them with 0 ("not this object"), not with the ignore value.

    fvcore has one method for both class labels and binary masks. It would make the ignore value part of every mask.
    """
    if isinstance(transform, ResizedCropTransform):
        transform = transform.steps
    if isinstance(transform, TransformList):
        return TransformList([for_instance_masks(t) for t in transform.transforms])
    if isinstance(transform, PadTransform):
        transform = copy.copy(transform)
        transform.seg_pad_value = 0
    return transform


def crops(cfg: CfgNode, is_train: bool) -> bool:
    """Whether images are cropped before the model sees them."""
    return is_train and (cfg.INPUT.CROP.ENABLED or cfg.INPUT.SCALE_CROP.ENABLED)


def build_augmentations(cfg: CfgNode, is_train: bool) -> list[T.Augmentation | Transform]:
    """The augmentations of a config, in the order in which they are applied.

    Training: resize, crop, colour, flip. PointRend trains semantic segmentation in this order; we use it for every task
    (Detectron2's own mapper crops before it resizes). With INPUT.SCALE_CROP: scale, pad, crop, colour, flip.
    Inference: Detectron2's resize.

    Raises:
        ValueError: settings exclude each other or are out of range; the message names the keys.
    """
    if not is_train:
        return detection_utils.build_augmentation(cfg, is_train=False)
    if cfg.INPUT.SCALE_CROP.ENABLED:
        augmentations: list[T.Augmentation | Transform] = [_scale_crop(cfg)]
    else:
        short, long, sampling = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
        resize = T.ResizeShortestEdge(short, long, sampling)
        crop = _crop(cfg, cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE) if cfg.INPUT.CROP.ENABLED else None
        augmentations = [ResizedCrop(resize, crop) if crop else resize]
    if cfg.INPUT.COLOR_AUG_SSD:
        if cfg.INPUT.FORMAT not in ("BGR", "RGB"):
            raise ValueError(f'INPUT.COLOR_AUG_SSD needs INPUT.FORMAT "BGR" or "RGB", got "{cfg.INPUT.FORMAT}"')
        augmentations.append(ColorAugSSDTransform(img_format=cfg.INPUT.FORMAT))
    if cfg.INPUT.RANDOM_FLIP != "none":
        flip = cfg.INPUT.RANDOM_FLIP
        augmentations.append(T.RandomFlip(horizontal=flip == "horizontal", vertical=flip == "vertical"))
    return augmentations


def _scale_crop(cfg: CfgNode) -> ResizedCrop:
    node = cfg.INPUT.SCALE_CROP
    if cfg.INPUT.CROP.ENABLED:
        raise ValueError("INPUT.CROP.ENABLED and INPUT.SCALE_CROP.ENABLED are both set; disable one of them")
    if len(node.SIZE) != 2 or min(node.SIZE) < 1:
        raise ValueError(f"INPUT.SCALE_CROP.SIZE must be (H, W) in pixels, got {node.SIZE}")
    scale = RandomScale(node.SCALES, sampling=node.SAMPLING)
    pad = PadToSize(node.SIZE, image_value=cfg.MODEL.PIXEL_MEAN, label_value=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE)
    return ResizedCrop(scale, _crop(cfg, "absolute", node.SIZE), pad=pad)


def _crop(cfg: CfgNode, kind: str, size: Sequence[float]) -> T.Augmentation:
    limit, ignore = cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    if cfg.DATALOADER.SAMPLER_TRAIN == SAMPLER_NAME:
        place = cfg.DATALOADER.CLASS_UNIFORM.PLACE
        if place not in ("around", "centred"):
            raise ValueError(f'DATALOADER.CLASS_UNIFORM.PLACE is "{place}"; allowed are "around" and "centred"')
        return RandomCropAroundPoint(kind, size, centred=place == "centred", max_area=limit, ignore_value=ignore)
    if limit >= 1:
        return T.RandomCrop(kind, size)
    return T.RandomCrop_CategoryAreaConstraint(kind, size, limit, ignore)
