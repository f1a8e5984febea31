"""One-stage detectors with AugFPN's Consistent Supervision: Guo et al., CVPR 2020, Sections 3.1 and 4.3."""

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from detectron2.modeling.roi_heads import ROIHeads
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ..heads.consistent_supervision import build_consistent_supervision, load_without_auxiliary_weights
from .dense_proposals import ProposalLimits, dense_proposals
from .fcos import FCOS


class ConsistentDenseDetector:
    """Mixin for a dense detector of Detectron2: it adds region losses on the laterals in training.

    Dense detectors have no RPN. So the regions are the detector's own detections, detached, and the ground truth; they
    are sampled and labelled as MODEL.ROI_HEADS says. The losses of the dense head and inference do not change.

    Args:
        consistent_supervision: auxiliary head, or None for the plain detector.
        sampler: region heads of which only ``label_and_sample_proposals`` is used.
        limits: numbers by which detections are chosen as proposals.
        **kwargs: arguments of the detector.
    """

    @configurable
    def __init__(
        self,
        *,
        consistent_supervision: nn.Module | None = None,
        sampler: ROIHeads | None = None,
        limits: ProposalLimits | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.consistent_supervision = consistent_supervision
        self.sampler = sampler
        self.limits = limits or ProposalLimits()
        load_without_auxiliary_weights(self)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        options = super().from_config(cfg)
        classes = options["num_classes"]
        node = cfg.MODEL.CONSISTENT_SUPERVISION
        options["consistent_supervision"] = build_consistent_supervision(
            cfg, options["backbone"].output_shape(), num_classes=classes, with_masks=False
        )
        options["sampler"] = ROIHeads(cfg, num_classes=classes)
        options["limits"] = ProposalLimits(
            pre_nms_topk=node.PRE_NMS_TOPK,
            score_thresh=node.SCORE_THRESH,
            nms_thresh=node.NMS_THRESH,
            post_nms_topk=node.POST_NMS_TOPK,
        )
        return options

    def forward(self, batched_inputs: list[dict]):
        if not self.training or self.consistent_supervision is None:
            return super().forward(batched_inputs)
        # Detectron2's forward keeps only the maps that the dense head reads, so the training step is repeated here.
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        maps = [features[name] for name in self.head_in_features]
        predictions = self.head(maps)
        targets = [x["instances"].to(self.device) for x in batched_inputs]
        losses = self.forward_training(images, maps, predictions, targets)
        proposals = self._propose(images, maps, predictions)
        with get_event_storage().name_scope("consistent_supervision"):
            proposals = self.sampler.label_and_sample_proposals(proposals, targets)
        return {**losses, **self.consistent_supervision.box_losses(features, proposals)}

    def _propose(self, images: ImageList, maps: list[Tensor], predictions) -> list[Instances]:
        logits, deltas, *centerness = self._transpose_dense_predictions(
            predictions, [self.num_classes, 4, 1][: len(predictions)]
        )
        return dense_proposals(
            self.anchor_generator(maps),
            logits,
            deltas,
            centerness[0] if centerness else None,
            transform=self.box2box_transform,
            image_sizes=images.image_sizes,
            limits=self.limits,
        )


@META_ARCH_REGISTRY.register()
class ConsistentRetinaNet(ConsistentDenseDetector, RetinaNet):
    """RetinaNet with Consistent Supervision on the laterals of its pyramid (three in the paper's config)."""


@META_ARCH_REGISTRY.register()
class ConsistentFCOS(ConsistentDenseDetector, FCOS):
    """FCOS with Consistent Supervision; proposals are ranked by class score times centerness."""
