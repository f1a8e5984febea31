"""PanopticFCN (Li et al., "Fully Convolutional Networks for Panoptic Segmentation", CVPR 2021) on any pyramid."""

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from ..heads.input_features import require_features
from ..heads.panoptic_fcn import FeatureEncoder, KernelEmbedding, KernelHead, PositionHead, SemanticFPN
from ..heads.panoptic_fcn.inference import PanopticFCNInference
from ..heads.panoptic_fcn.losses import PanopticFCNLosses, Predictions
from ..heads.panoptic_fcn.targets import TargetBuilder
from ..heads.panoptic_fcn.tower import Tower
from ..layers.deform_conv.backend import check_backend


@META_ARCH_REGISTRY.register()
class PanopticFCN(nn.Module):
    """Objects and regions by the same means: kernels, predicted where they are, on one map at stride 4.

    Args:
        backbone: a pyramid.
        in_features: its levels that the position head and the kernel head read, finest first.
        semantic_fpn, feature_encoder: the modules that compute the map at stride 4 that kernels are applied to.
        position_head, kernel_head: shared by all levels.
        thing_generator, stuff_generator: last layers of the kernels.
        ignore_value: labels of regions that belong to no class; they are background of all classes.
        targets, losses: the builder of targets, and the losses.
        inference: the function from predictions to objects and regions.
        combine: arguments of Detectron2's ``combine_semantic_and_instance_outputs``; None: no panoptic result.
        pixel_mean, pixel_std: one value per channel of the image.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        in_features: list[str],
        semantic_fpn: SemanticFPN,
        feature_encoder: FeatureEncoder,
        position_head: PositionHead,
        kernel_head: KernelHead,
        thing_generator: KernelEmbedding,
        stuff_generator: KernelEmbedding,
        ignore_value: int,
        targets: TargetBuilder,
        losses: PanopticFCNLosses,
        inference: PanopticFCNInference,
        combine: dict[str, float] | None,
        pixel_mean: list[float],
        pixel_std: list[float],
    ):
        super().__init__()
        self.backbone = backbone
        self.in_features = list(in_features)
        self.semantic_fpn = semantic_fpn
        self.feature_encoder = feature_encoder
        self.position_head = position_head
        self.kernel_head = kernel_head
        self.thing_generator = thing_generator
        self.stuff_generator = stuff_generator
        self.ignore_value = ignore_value
        self.targets = targets
        self.losses = losses
        self.inference = inference
        self.combine = combine
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """MODEL.PANOPTIC_FCN, MODEL.SEM_SEG_HEAD and MODEL.PANOPTIC_FPN.COMBINE; MODEL.NECK.DEFORM.BACKEND.

        Raises:
            ValueError: a level that the backbone lacks, lists of other lengths than IN_FEATURES, an even side of a
                square, another stride than 4, or MODEL.MASK_ON is off.
        """
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        _check(cfg, shapes)
        node, semantic = cfg.MODEL.PANOPTIC_FCN, cfg.MODEL.SEM_SEG_HEAD
        channels = shapes[node.IN_FEATURES[0]].channels
        width, embedded = node.KERNEL_HEAD.CONVS_DIM, node.FEATURE_ENCODER.CONVS_DIM
        combine = cfg.MODEL.PANOPTIC_FPN.COMBINE
        return {
            "backbone": backbone,
            "in_features": node.IN_FEATURES,
            "semantic_fpn": SemanticFPN(cfg, shapes),
            "feature_encoder": FeatureEncoder(_tower(cfg, "FEATURE_ENCODER", semantic.CONVS_DIM)),
            "position_head": PositionHead(
                _tower(cfg, "POSITION_HEAD", channels),
                node.POSITION_HEAD.CONVS_DIM,
                num_things=node.NUM_CLASSES,
                num_stuff=semantic.NUM_CLASSES,
                bias=node.POSITION_HEAD.BIAS_VALUE,
            ),
            "kernel_head": KernelHead(_tower(cfg, "KERNEL_HEAD", channels), width),
            "thing_generator": KernelEmbedding(width, embedded),
            "stuff_generator": KernelEmbedding(width, embedded),
            "ignore_value": semantic.IGNORE_VALUE,
            "targets": TargetBuilder(
                num_things=node.NUM_CLASSES,
                num_stuff=semantic.NUM_CLASSES,
                scales=node.OBJECT_SCALES,
                center=node.CENTER,
                min_overlap=node.MIN_OVERLAP,
                sigma=node.GAUSSIAN_SIGMA,
            ),
            "losses": PanopticFCNLosses(
                num_kernels=node.POS_NUM,
                position_weight=node.POSITION_WEIGHT,
                segment_weight=node.SEGMENT_WEIGHT,
                alpha=node.FOCAL_LOSS_ALPHA,
                gamma=node.FOCAL_LOSS_GAMMA,
            ),
            "inference": PanopticFCNInference(
                thing_thresh=node.THING_THRESH_TEST,
                stuff_thresh=node.STUFF_THRESH_TEST,
                mask_thresh=node.MASK_THRESH_TEST,
                score_thresh=node.SCORE_THRESH_TEST,
                least_similarity=node.SIMILARITY_THRESH_TEST,
                max_objects=node.TOPK_TEST,
                smoothing=node.SMOOTHING_TEST,
            ),
            "combine": {
                "overlap_threshold": combine.OVERLAP_THRESH,
                "stuff_area_thresh": combine.STUFF_AREA_LIMIT,
                "instances_score_thresh": combine.INSTANCES_CONFIDENCE_THRESH,
            }
            if combine.ENABLED
            else None,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Losses in training, results in evaluation.

        Args:
            batched_inputs: for each image a dict with "image" (C,h0,w0); in training "sem_seg" (h0,w0) and, unless
                there are no objects, "instances"; in evaluation "height" and "width" of the results, by default the
                image's.

        Returns:
            In training the losses of `PanopticFCNLosses`. In evaluation for each image "sem_seg" (S, height, width)
            scores, "instances", and "panoptic_seg" as Detectron2's ``PanopticFPN`` gives it.

        Raises:
            ValueError: an image without "sem_seg" in training.
        """
        images = [(x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs]
        images = ImageList.from_tensors(
            images, self.backbone.size_divisibility, padding_constraints=self.backbone.padding_constraints
        )
        predictions = self.predict(images.tensor)
        if self.training:
            targets = self._targets(batched_inputs, predictions)
            return self.losses(predictions, targets, self.thing_generator, self.stuff_generator)
        return [
            self._result(predictions, i, size, (x.get("height", size[0]), x.get("width", size[1])))
            for i, (x, size) in enumerate(zip(batched_inputs, images.image_sizes))
        ]

    def predict(self, images: Tensor) -> Predictions:
        """Normalised and padded images (N,3,height,width) -> what the heads give."""
        features = self.backbone(images)
        levels = [features[name] for name in self.in_features]
        encoded = self.feature_encoder(self.semantic_fpn(features))
        centers, regions = self.position_head(levels)
        return Predictions(centers, regions, self.kernel_head(levels), encoded)

    def _targets(self, batched_inputs: list[dict], predictions: Predictions):
        if any("sem_seg" not in x for x in batched_inputs):
            raise ValueError(
                "PanopticFCN learns objects and regions, but an image has no 'sem_seg': train it on a panoptic data "
                'set whose name ends with "_panoptic_separated"'
            )
        num_classes = predictions.regions[0].shape[1]
        labels = [x["sem_seg"] for x in batched_inputs]
        encoded = predictions.encoded
        return self.targets(
            [x["instances"] if "instances" in x else _no_objects(x["image"]) for x in batched_inputs],
            [x.masked_fill(x == self.ignore_value, num_classes) for x in labels],
            finest=tuple(encoded.shape[2:]),
            levels=[tuple(x.shape[2:]) for x in predictions.centers],
            device=encoded.device,
            dtype=torch.promote_types(encoded.dtype, torch.float32),
        )

    def _result(self, predictions: Predictions, image: int, input_size, output_size) -> dict:
        instances, sem_seg = self.inference(
            predictions,
            self.thing_generator,
            self.stuff_generator,
            image=image,
            input_size=input_size,
            output_size=output_size,
        )
        result = {"sem_seg": sem_seg, "instances": instances}
        if self.combine is not None:
            result["panoptic_seg"] = combine_semantic_and_instance_outputs(
                instances, sem_seg.argmax(dim=0), **self.combine
            )
        return result


def _no_objects(image: Tensor) -> Instances:
    return Instances(
        tuple(image.shape[1:]), gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0, dtype=torch.long)
    )


def _tower(cfg: CfgNode, head: str, in_channels: int) -> Tower:
    node, backend = cfg.MODEL.PANOPTIC_FCN[head], cfg.MODEL.NECK.DEFORM.BACKEND
    return Tower(
        in_channels,
        node.CONVS_DIM,
        node.NUM_CONVS,
        norm=node.NORM,
        coordinates=node.COORD,
        deformable=node.DEFORM,
        backend=check_backend(backend, "MODEL.NECK.DEFORM.BACKEND") if backend else None,
    )


def _check(cfg: CfgNode, shapes: dict[str, ShapeSpec]) -> None:
    node, semantic = cfg.MODEL.PANOPTIC_FCN, cfg.MODEL.SEM_SEG_HEAD
    for key, names in (("PANOPTIC_FCN", node.IN_FEATURES), ("SEM_SEG_HEAD", semantic.IN_FEATURES)):
        require_features(f"MODEL.{key}.IN_FEATURES", names, shapes)
    for key in ("OBJECT_SCALES", "SMOOTHING_TEST"):
        if len(node[key]) != len(node.IN_FEATURES):
            raise ValueError(
                f"MODEL.PANOPTIC_FCN.{key} = {node[key]} needs one entry for each of IN_FEATURES = {node.IN_FEATURES}"
            )
    if any(side < 1 or side % 2 == 0 for side in node.SMOOTHING_TEST):
        raise ValueError(f"MODEL.PANOPTIC_FCN.SMOOTHING_TEST = {node.SMOOTHING_TEST}: sides of squares must be odd")
    if semantic.COMMON_STRIDE != 4:
        raise ValueError(f"MODEL.SEM_SEG_HEAD.COMMON_STRIDE = {semantic.COMMON_STRIDE}: PanopticFCN needs 4")
    if not cfg.MODEL.MASK_ON:
        raise ValueError("MODEL.MASK_ON is False, but PanopticFCN learns from masks of objects; set it to True")
