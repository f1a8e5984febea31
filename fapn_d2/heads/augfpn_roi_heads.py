"""Region heads of AugFPN's two-stage detectors, with Soft RoI Selection and Consistent Supervision; each has a key."""

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, StandardROIHeads, select_foreground_proposals
from detectron2.structures import Instances
from torch import Tensor, nn

from ..layers.spatial_fusion import build_fusion
from .consistent_supervision import build_consistent_supervision, load_without_auxiliary_weights
from .shared_mask_targets import share_mask_targets
from .soft_roi_selection import SoftRoISelection


@ROI_HEADS_REGISTRY.register()
class AugFPNROIHeads(StandardROIHeads):
    """Detectron2's heads for boxes and masks, with AugFPN's pooling and auxiliary losses.

    With MODEL.SOFT_ROI_SELECTION.FUSION and MODEL.CONSISTENT_SUPERVISION.MODE both "none" these are the standard heads.
    Consistent Supervision does nothing in inference. With MODE "none" its parameters are not built, and such a network
    still loads checkpoints that have them.

    Args:
        consistent_supervision: auxiliary heads on the laterals, or None.
        **kwargs: arguments of ``StandardROIHeads``.
    """

    @configurable
    def __init__(self, *, consistent_supervision: nn.Module | None = None, **kwargs):
        super().__init__(**kwargs)
        self.consistent_supervision = consistent_supervision
        load_without_auxiliary_weights(self)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        options = super().from_config(cfg, input_shape)
        options["consistent_supervision"] = build_consistent_supervision(
            cfg, input_shape, num_classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES, with_masks=cfg.MODEL.MASK_ON
        )
        return options

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        options = super()._init_box_head(cfg, input_shape)
        return _soften(cfg, options, "box", input_shape)

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        options = super()._init_mask_head(cfg, input_shape)
        if options.get("mask_pooler") is None or not cfg.MODEL.SOFT_ROI_SELECTION.MASK:
            return options
        return _soften(cfg, options, "mask", input_shape)

    def _forward_box(self, features: dict[str, Tensor], proposals: list[Instances]):
        auxiliary = {}
        if self.training and self.consistent_supervision is not None:
            # Before the main head, which replaces the boxes under ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES.
            auxiliary = self.consistent_supervision.box_losses(features, proposals)
        result = super()._forward_box(features, proposals)
        return {**result, **auxiliary} if self.training else result

    def _forward_mask(self, features: dict[str, Tensor], instances: list[Instances]):
        supervised = self.training and self.mask_on and self.consistent_supervision is not None
        if not supervised or self.consistent_supervision.mask_head is None:
            return super()._forward_mask(features, instances)
        instances, _ = select_foreground_proposals(instances, self.num_classes)
        share_mask_targets(instances)
        maps = [features[name] for name in self.mask_in_features]
        losses = self.mask_head(self.mask_pooler(maps, [x.proposal_boxes for x in instances]), instances)
        return {**losses, **self.consistent_supervision.mask_losses(features, instances)}


def _soften(cfg: CfgNode, options: dict, head: str, input_shape: dict[str, ShapeSpec]) -> dict:
    """Options of the head "box" or "mask" with its pooler replaced by Soft RoI Selection, if the config has one."""
    name = cfg.MODEL.SOFT_ROI_SELECTION.FUSION
    if name == "none":
        return options
    levels = options[f"{head}_in_features"]
    channels = input_shape[levels[0]].channels
    fusion = build_fusion(name, channels, len(levels), key="MODEL.SOFT_ROI_SELECTION.FUSION", also_allowed=("none",))
    return {**options, f"{head}_pooler": SoftRoISelection(options[f"{head}_pooler"], fusion)}
