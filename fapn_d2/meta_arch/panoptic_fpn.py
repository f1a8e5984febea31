"""Panoptic FPN's joint training with a weight per task, in turns, or on groups of channels, and its merge.

A. Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR 2019, Sections 3.2 and 4, Tables 2 to 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone, build_proposal_generator, build_roi_heads
from detectron2.modeling.meta_arch.panoptic_fpn import PanopticFPN, combine_semantic_and_instance_outputs
from detectron2.modeling.meta_arch.semantic_seg import build_sem_seg_head
from detectron2.modeling.postprocessing import detector_postprocess, sem_seg_postprocess
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor


@dataclass(frozen=True)
class PanopticMerge:
    """How objects and the semantic map become one panoptic result: panopticapi's procedure, as Detectron2 has it.

    Objects are placed by their scores. The semantic map fills the rest.
    """

    overlap: float = 0.5  #: an object is left out if a larger fraction of its mask is taken
    stuff_area: float = 4096  #: least number of free pixels of a semantic class, at the size of the result
    score: float = 0.5  #: least score of an object
    dropped: Sequence[int] = (0,)  #: semantic classes that stand for things, which never fill the rest

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "PanopticMerge":
        """From MODEL.PANOPTIC_FPN.COMBINE.

        Raises:
            ValueError: DROPPED_CLASSES holds a class that the semantic branch does not have.
        """
        node, classes = cfg.MODEL.PANOPTIC_FPN.COMBINE, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        if unknown := [c for c in node.DROPPED_CLASSES if not 0 <= c < classes]:
            raise ValueError(
                f"MODEL.PANOPTIC_FPN.COMBINE.DROPPED_CLASSES holds {unknown[0]}; the semantic branch has the classes "
                f"0..{classes - 1} (MODEL.SEM_SEG_HEAD.NUM_CLASSES)"
            )
        return cls(
            overlap=node.OVERLAP_THRESH,
            stuff_area=node.STUFF_AREA_LIMIT,
            score=node.INSTANCES_CONFIDENCE_THRESH,
            dropped=tuple(node.DROPPED_CLASSES),
        )

    def __call__(self, instances: Instances | None, classes: Tensor | None) -> tuple[Tensor, list[dict]]:
        """Merge the results for one image.

        Args:
            instances: ``scores``, ``pred_classes`` and ``pred_masks`` (N, H, W) at the size of the result; None: no
                objects are placed.
            classes: (H, W) semantic classes; None: nothing fills the rest.

        Returns:
            (H, W) int32 ids of segments, 0 for void, and for each segment "id", "category_id" and "isthing".
            "category_id" of stuff is the semantic class.

        Raises:
            ValueError: both are None, or their sizes differ.
        """
        if instances is None and classes is None:
            raise ValueError("there is nothing to merge: neither objects nor a semantic map is given")
        if classes is None:
            classes = torch.zeros(instances.image_size, dtype=torch.long, device=instances.scores.device)
            free = classes
        else:
            # Detectron2's function drops class 0 only. So dropped classes become 0, and all others move up by one.
            free = classes + 1
            free[torch.isin(classes, classes.new_tensor(list(self.dropped)))] = 0
        if instances is None:
            instances = _no_detections(classes)
        elif tuple(instances.image_size) != tuple(classes.shape):
            raise ValueError(
                f"objects are of an image of {tuple(instances.image_size)} pixels, the semantic map has "
                f"{tuple(classes.shape)}; both must be (H, W) of the result"
            )
        ids, segments = combine_semantic_and_instance_outputs(
            instances, free, self.overlap, self.stuff_area, self.score
        )
        for segment in segments:
            if not segment["isthing"]:
                segment["category_id"] -= 1
        return ids, segments


def _no_detections(classes: Tensor) -> Instances:
    h, w = classes.shape
    return Instances(
        (h, w),
        scores=torch.zeros(0, device=classes.device),
        pred_classes=torch.zeros(0, dtype=torch.long, device=classes.device),
        pred_masks=torch.zeros(0, h, w, dtype=torch.bool, device=classes.device),
    )


@META_ARCH_REGISTRY.register()
class TwoTaskPanopticFPN(PanopticFPN):
    """Detectron2's ``PanopticFPN``, with the same parameters, and what the paper's Tables 2 and 3 vary.

    - A loss weight of 0 builds the network of the other task alone: with the parameters of a ``GeneralizedRCNN`` if
      ``sem_seg_head`` is None, of a ``SemanticSegmentor`` if ``proposal_generator`` and ``roi_heads`` are None.
    - ``instance_weight`` scales the losses of ``roi_heads``, not those of the region proposal network: the paper's
      formula names the losses of classes, boxes and masks. (Detectron2's ``PanopticFPN`` does not scale ``loss_cls``.)
    - With ``alternate`` even iterations train the instance branch and odd iterations the semantic branch. The branch
      that is not in turn is not run. The iteration is that of Detectron2's ``EventStorage``, so that a resumed run goes
      on with the right turn.

    Args:
        merge: the function that computes the panoptic result.
        instance_weight: the paper's lambda_i. The semantic head has its own weight.
        alternate: whether the losses of the two branches take turns.
        instance_channels: (first, one past the last) channel of the pyramid's maps that ``proposal_generator`` and
            ``roi_heads`` read; None: all.
        **kwargs: arguments of ``PanopticFPN``.
    """

    @configurable
    def __init__(
        self,
        *,
        merge: PanopticMerge,
        instance_weight: float = 1.0,
        alternate: bool = False,
        instance_channels: tuple[int, int] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.merge = merge
        self.instance_weight = instance_weight
        self.alternate = alternate
        self.instance_channels = instance_channels

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """MODEL.PANOPTIC_FPN, and what ``PanopticFPN`` reads.

        Raises:
            ValueError: both weights are 0, one is negative, turns are wanted of a single branch, MODEL.MASK_ON is
                False, or a number of channels or a class is out of range.
        """
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        weights = task_weights(cfg)
        channels = _instance_channels(cfg, shapes)
        seen = shapes
        if channels:
            seen = {n: ShapeSpec(channels=channels[1] - channels[0], stride=s.stride) for n, s in shapes.items()}
        return {
            "backbone": backbone,
            "proposal_generator": build_proposal_generator(cfg, seen) if weights["objects"] else None,
            "roi_heads": build_roi_heads(cfg, seen) if weights["objects"] else None,
            "sem_seg_head": build_sem_seg_head(cfg, shapes) if weights["regions"] else None,
            "merge": PanopticMerge.from_config(cfg),
            "instance_weight": weights["objects"],
            "alternate": cfg.MODEL.PANOPTIC_FPN.ALTERNATE,
            "instance_channels": channels,
            "input_format": cfg.INPUT.FORMAT,
            "vis_period": cfg.VIS_PERIOD,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def leaves_parameters_out(self) -> bool:
        """Whether an iteration may give some parameters no gradient: ``DistributedDataParallel`` must look for them."""
        return self.alternate

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Losses in training, results in evaluation.

        Args:
            batched_inputs: for each image a dict with "image" (C, h, w); in training "instances" and "sem_seg" (h, w)
                for the branches that are built; in evaluation "height" and "width" of the results, by default the
                image's.

        Returns:
            In training the losses of the branches in turn. In evaluation for each image "instances" and "sem_seg"
            (K, height, width) of the branches that are built, and "panoptic_seg" as ``PanopticFPN`` gives it.

        Raises:
            ValueError: an image has no labels for a branch that is trained.
        """
        if not self.training:
            return self.inference(batched_inputs)
        instances, semantic = self._turn()
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        losses = {}
        if semantic:
            losses.update(self._semantic_losses(features, batched_inputs))
        if instances:
            losses.update(self._instance_losses(images, features, batched_inputs))
        return losses

    def _turn(self) -> tuple[bool, bool]:
        """Whether this iteration trains the instance branch, and whether it trains the semantic branch."""
        if not self.alternate:
            return self.roi_heads is not None, self.sem_seg_head is not None
        even = get_event_storage().iter % 2 == 0
        return even, not even

    def _semantic_losses(self, features: dict[str, Tensor], batched_inputs: list[dict]) -> dict[str, Tensor]:
        labels = ImageList.from_tensors(
            [x.to(self.device) for x in _labels(batched_inputs, "sem_seg")],
            self.backbone.size_divisibility,
            self.sem_seg_head.ignore_value,
            self.backbone.padding_constraints,
        ).tensor
        return self.sem_seg_head(features, labels)[1]

    def _instance_losses(self, images: ImageList, features: dict[str, Tensor], batched_inputs: list[dict]) -> dict:
        truth = [x.to(self.device) for x in _labels(batched_inputs, "instances")]
        features = self._for_instances(features)
        proposals, losses = self.proposal_generator(images, features, truth)
        _, detector_losses = self.roi_heads(images, features, proposals, truth)
        return losses | {name: loss * self.instance_weight for name, loss in detector_losses.items()}

    def _for_instances(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.instance_channels is None:
            return features
        first, end = self.instance_channels
        return {name: x[:, first:end] for name, x in features.items()}

    def inference(self, batched_inputs: list[dict], do_postprocess: bool = True) -> list[dict] | tuple:
        """Results for each image.

        Args:
            batched_inputs: as in :meth:`forward`.
            do_postprocess: whether to resize and merge.

        Returns:
            As :meth:`forward`; without ``do_postprocess`` (detections, semantic scores), of which one is None in a
            network for one task.
        """
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        detections, scores = None, None
        if self.sem_seg_head is not None:
            scores, _ = self.sem_seg_head(features, None)
        if self.roi_heads is not None:
            seen = self._for_instances(features)
            proposals, _ = self.proposal_generator(images, seen, None)
            detections, _ = self.roi_heads(images, seen, proposals, None)
        if not do_postprocess:
            return detections, scores
        results = []
        for i, (x, size) in enumerate(zip(batched_inputs, images.image_sizes)):
            height, width = x.get("height", size[0]), x.get("width", size[1])
            result = {}
            if scores is not None:
                result["sem_seg"] = sem_seg_postprocess(scores[i], size, height, width)
            if detections is not None:
                result["instances"] = detector_postprocess(detections[i], height, width)
            results.append(result | {"panoptic_seg": merged(self.merge, result)})
        return results


def merged(merge: PanopticMerge, result: dict) -> tuple[Tensor, list[dict]]:
    """The panoptic result of an image from "instances" and "sem_seg" (K, H, W) scores, of which one may be missing."""
    scores = result.get("sem_seg")
    return merge(result.get("instances"), None if scores is None else scores.argmax(dim=0))


def task_weights(cfg: CfgNode) -> dict[str, float]:
    """The loss weights of a ``TwoTaskPanopticFPN``: of "objects" lambda_i, of "regions" lambda_s.

    Raises:
        ValueError: both are 0, one is negative, turns are wanted of a single task, or MODEL.MASK_ON is False.
    """
    keys = {"objects": "MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT", "regions": "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT"}
    values = {"objects": cfg.MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT, "regions": cfg.MODEL.SEM_SEG_HEAD.LOSS_WEIGHT}
    shown = " and ".join(f"{keys[task]} is {value}" for task, value in values.items())
    if min(values.values()) < 0 or not any(values.values()):
        raise ValueError(f"{shown}; weights are at least 0, and one is above 0")
    if cfg.MODEL.PANOPTIC_FPN.ALTERNATE and not all(values.values()):
        raise ValueError(f"MODEL.PANOPTIC_FPN.ALTERNATE needs two tasks, but {shown}; set both above 0")
    if values["objects"] and not cfg.MODEL.MASK_ON:
        raise ValueError("MODEL.MASK_ON is False, but a panoptic result needs masks of objects; set it to True")
    return values


def _instance_channels(cfg: CfgNode, shapes: dict[str, ShapeSpec]) -> tuple[int, int] | None:
    channels = tuple(cfg.MODEL.PANOPTIC_FPN.INSTANCE_CHANNELS)
    if not channels:
        return None
    width = min(shape.channels for shape in shapes.values())
    if len(channels) != 2 or not 0 <= channels[0] < channels[1] <= width:
        raise ValueError(
            f"MODEL.PANOPTIC_FPN.INSTANCE_CHANNELS is {list(channels)}; it is empty or [first, one past the last] "
            f"channel of the {width} of the pyramid"
        )
    return channels


def _labels(batched_inputs: list[dict], key: str) -> list:
    lacking = [x for x in batched_inputs if key not in x]
    if lacking:
        raise ValueError(
            f"image {lacking[0].get('file_name', '(no file name)')} has no {key!r}: train on a panoptic data set, or "
            "set the loss weight of the task without labels to 0 (MODEL.SEM_SEG_HEAD.LOSS_WEIGHT or "
            "MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT)"
        )
    return [x[key] for x in batched_inputs]
