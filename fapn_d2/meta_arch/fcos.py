"""Detectron2's FCOS for YAML configs; Detectron2 itself builds it from Python configs only."""

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.meta_arch import fcos

from ..heads.input_features import require_features


@META_ARCH_REGISTRY.register()
class FCOS(fcos.FCOS):
    """Detectron2's version of FCOS (Tian et al., ICCV 2019), built from MODEL.FCOS.

    With the default keys this is the network of Detectron2's ``fcos_R_50_FPN_1x.py``. It differs from the FCOS of
    AugFPN's paper, and no key changes that: the loss is GIoU and not IoU, targets are normalised by the stride, levels
    have no learnt scale, centerness is predicted from the box tower, and scores are sqrt(class * centerness).
    """

    @configurable
    def __init__(self, **kwargs):
        super().__init__(**kwargs)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        node = cfg.MODEL.FCOS
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        require_features("MODEL.FCOS.IN_FEATURES", node.IN_FEATURES, shapes)
        if node.CENTER_SAMPLING_RADIUS < 0:
            raise ValueError(f"MODEL.FCOS.CENTER_SAMPLING_RADIUS = {node.CENTER_SAMPLING_RADIUS} is below 0")
        features = [shapes[name] for name in node.IN_FEATURES]
        head = fcos.FCOSHead(
            input_shape=features,
            num_classes=node.NUM_CLASSES,
            conv_dims=[features[0].channels] * node.NUM_CONVS,
            norm=node.NORM,
            prior_prob=node.PRIOR_PROB,
        )
        return {
            "backbone": backbone,
            "head": head,
            "head_in_features": list(node.IN_FEATURES),
            "num_classes": node.NUM_CLASSES,
            # With an infinite radius every point inside a box is a candidate.
            "center_sampling_radius": node.CENTER_SAMPLING_RADIUS or float("inf"),
            "focal_loss_alpha": node.FOCAL_LOSS_ALPHA,
            "focal_loss_gamma": node.FOCAL_LOSS_GAMMA,
            "test_score_thresh": node.SCORE_THRESH_TEST,
            "test_topk_candidates": node.TOPK_CANDIDATES_TEST,
            "test_nms_thresh": node.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def forward_training(self, images, features, predictions, gt_instances):
        # Under autocast predictions come in half precision and anchors in single: the GIoU loss cannot mix them.
        predictions = [[level.float() for level in levels] for levels in predictions]
        return super().forward_training(images, features, predictions, gt_instances)
