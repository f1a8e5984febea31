"""TEST.AUG: Detectron2's test-time augmentation of boxes and masks, and MaskFormer's of semantic scores, with an early
error where it does not work."""

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNNWithTTA
from detectron2.modeling.meta_arch import GeneralizedRCNN, PanopticFPN
from torch import nn

from ..meta_arch.mask_former import MaskFormer, PanopticMaskFormer
from .semantic_augmentation import augmented_segmentor


def check_augmentation(cfg: CfgNode) -> None:
    """Raise ValueError if TEST.AUG.ENABLED is set for a network for which Detectron2 would fail after the training."""
    name = cfg.MODEL.META_ARCHITECTURE
    if (
        not cfg.TEST.AUG.ENABLED or name not in META_ARCH_REGISTRY
    ):  # building the model reports names that are not registered
        return
    kind = META_ARCH_REGISTRY.get(name)
    if _is_mask_former(kind):
        return
    # A PanopticFPN is a subclass of GeneralizedRCNN, so Detectron2 accepts it, but its inference has other arguments.
    if not issubclass(kind, GeneralizedRCNN) or issubclass(kind, PanopticFPN):
        raise ValueError(
            f"TEST.AUG.ENABLED merges boxes and masks of a GeneralizedRCNN, MODEL.META_ARCHITECTURE is {name}; for "
            "semantic scores set TEST.SEM_SEG.SCALES and TEST.SEM_SEG.FLIP"
        )
    for key, value in {"KEYPOINT_ON": cfg.MODEL.KEYPOINT_ON, "LOAD_PROPOSALS": cfg.MODEL.LOAD_PROPOSALS}.items():
        if value:
            raise ValueError(f"TEST.AUG.ENABLED does not work with MODEL.{key}; disable one of them")


def augmented(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """``model`` applied to each image in all sizes of TEST.AUG, with merged detections or averaged scores.

    Raises:
        ValueError: see :func:`check_augmentation`.
    """
    check_augmentation(cfg)
    if _is_mask_former(META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)):
        return augmented_segmentor(cfg, model)
    wrapped = GeneralizedRCNNWithTTA(cfg, model)
    wrapped.training = model.training  # so that switching to evaluation and back restores the mode of the model
    return wrapped


def _is_mask_former(kind: type) -> bool:
    """Whether ``kind`` is a MaskFormer that returns only semantic scores."""
    return issubclass(kind, MaskFormer) and not issubclass(kind, PanopticMaskFormer)
