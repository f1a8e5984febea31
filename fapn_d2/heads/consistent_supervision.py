"""Consistent Supervision of AugFPN: Guo et al., CVPR 2020, Section 3.1, Equation 1, Table 3.

Legend: R sampled regions of all images of a batch, L levels with laterals M_l, C channels, o x o size of a region's
features, lambda the weight of Equation 1.
"""

from collections.abc import Mapping

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import FastRCNNOutputLayers, build_box_head, build_mask_head
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import nn

KEY = "MODEL.CONSISTENT_SUPERVISION"
MODES = ("none", "all_levels", "single_level")


class ConsistentSupervision(nn.Module):
    """Auxiliary heads on the laterals, before any context is added and before the top-down sums.

    Every sampled region is pooled from every M_l. One auxiliary head, shared by all levels, predicts its class and box,
    and the targets are those of the main head. Gradients flow into M_l. The losses are summed over the levels, as in
    the official code. So with four levels and lambda = 0.25 the auxiliary losses weigh as much as the main losses. The
    auxiliary heads do not share weights with the main heads.

    Args:
        in_features: names and shapes of the laterals, finest first.
        all_levels: True: each region is supervised on all levels. False: only on the level that FPN's rule assigns it
            to (Table 3).
        weight: lambda, the factor on each level's losses.
        box_pooler, mask_pooler: arguments of ``ROIPooler`` except for the scales.
        box_head, box_predictor: (R,C,o,o) -> features -> scores and deltas, as ``FastRCNNOutputLayers``.
        mask_head: one of Detectron2's mask heads; None: no losses of masks. The paper does not mention masks; the
            official configs of Mask R-CNN have this head.
    """

    def __init__(
        self,
        in_features: Mapping[str, ShapeSpec],
        *,
        all_levels: bool,
        weight: float,
        box_pooler: Mapping,
        box_head: nn.Module,
        box_predictor: nn.Module,
        mask_pooler: Mapping | None = None,
        mask_head: nn.Module | None = None,
    ):
        super().__init__()
        self.in_features = tuple(in_features)
        self.weight = weight
        scales = [1 / shape.stride for shape in in_features.values()]
        #: Groups of maps that are pooled together: name in the losses, names of the maps, scales of the maps.
        groups = [(name, (name,), [scale]) for name, scale in zip(in_features, scales)]
        groups = groups if all_levels else [("lateral", self.in_features, scales)]
        self.groups = tuple((name, maps) for name, maps, _ in groups)
        self.box_poolers = nn.ModuleList(ROIPooler(scales=scale, **box_pooler) for *_, scale in groups)
        self.box_head = box_head
        self.box_predictor = box_predictor
        self.mask_head = mask_head
        if mask_head is not None:
            self.mask_poolers = nn.ModuleList(ROIPooler(scales=scale, **mask_pooler) for *_, scale in groups)

    def box_losses(self, features: Mapping[str, torch.Tensor], proposals: list[Instances]) -> dict[str, torch.Tensor]:
        """Losses of boxes and classes, named "loss_cls_lateral2" and so on.

        Args:
            features: the outputs of the pyramid in training mode, including the laterals.
            proposals: sampled regions with their targets, as for the main head.

        Raises:
            ValueError: ``features`` lacks the laterals.
        """
        pooled = self._pool(self.box_poolers, features, proposals)
        scores, deltas = self.box_predictor(self.box_head(torch.cat(pooled)))
        counts = [len(p) for p in pooled]
        losses = {}
        for (name, _), *predictions in zip(self.groups, scores.split(counts), deltas.split(counts)):
            with _log_apart(name):
                losses |= self._named(name, self.box_predictor.losses(tuple(predictions), proposals))
        return losses

    def mask_losses(self, features: Mapping[str, torch.Tensor], instances: list[Instances]) -> dict[str, torch.Tensor]:
        """Losses of masks for regions that lie on objects, named "loss_mask_lateral2" and so on; {} without a head."""
        if self.mask_head is None:
            return {}
        losses = {}
        for (name, _), pooled in zip(self.groups, self._pool(self.mask_poolers, features, instances)):
            with _log_apart(name):
                losses |= self._named(name, self.mask_head(pooled, instances))
        return losses

    def _pool(self, poolers, features, instances) -> list[torch.Tensor]:
        missing = [name for name in self.in_features if name not in features]
        if missing:
            raise ValueError(
                f"Consistent Supervision needs the maps {missing}, but the backbone gives {list(features)}; set "
                f'MODEL.NECK.EXTRA_OUTPUTS ["lateral"], or {KEY}.MODE "none"'
            )
        boxes = [x.proposal_boxes for x in instances]
        return [pool([features[m] for m in maps], boxes) for pool, (_, maps) in zip(poolers, self.groups)]

    def _named(self, name: str, losses: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {f"{key}_{name}": self.weight * value for key, value in losses.items()}


def build_consistent_supervision(
    cfg: CfgNode, pyramid: Mapping[str, ShapeSpec], *, num_classes: int, with_masks: bool
) -> ConsistentSupervision | None:
    """The auxiliary heads that MODEL.CONSISTENT_SUPERVISION describes, like the main ones of MODEL.ROI_{BOX,MASK}_HEAD.

    Args:
        cfg: a config; with MODE "none" nothing is built.
        pyramid: ``output_shape()`` of the pyramid, whose first len(MODEL.FPN.IN_FEATURES) levels have laterals.
        num_classes: number of classes without background.
        with_masks: whether the network has a mask head.

    Raises:
        ValueError: an unknown MODE, or settings from which auxiliary heads cannot be built.
    """
    node = cfg.MODEL.CONSISTENT_SUPERVISION
    if node.MODE not in MODES:
        raise ValueError(f"{KEY}.MODE: unknown value {node.MODE!r}; allowed: {', '.join(MODES)}")
    if node.MODE == "none":
        return None
    box = cfg.MODEL.ROI_BOX_HEAD
    if not box.NAME:
        raise ValueError(
            f"{KEY} needs a box head to build its own after, but MODEL.ROI_BOX_HEAD.NAME is empty; the paper's is "
            "NAME FastRCNNConvFCHead, NUM_FC 2, POOLER_RESOLUTION 7"
        )
    levels = sorted(pyramid, key=lambda name: pyramid[name].stride)[: len(cfg.MODEL.FPN.IN_FEATURES)]
    laterals = {f"lateral{name.removeprefix('p')}": pyramid[name] for name in levels}
    channels = pyramid[levels[0]].channels
    box_head = build_box_head(cfg, _region(channels, box.POOLER_RESOLUTION))
    options = dict(
        all_levels=node.MODE == "all_levels",
        weight=node.WEIGHT,
        box_pooler=_pooler_options(box),
        box_head=box_head,
        box_predictor=FastRCNNOutputLayers(cfg, box_head.output_shape, num_classes=num_classes),
    )
    if with_masks and node.MASK:
        mask = cfg.MODEL.ROI_MASK_HEAD
        if not mask.POOLER_TYPE:
            raise ValueError(
                f"{KEY}.MASK: {mask.NAME} takes no pooled regions (MODEL.ROI_MASK_HEAD.POOLER_TYPE is empty), so it "
                f"cannot be put on the laterals; set {KEY}.MASK False"
            )
        options["mask_head"] = build_mask_head(cfg, _region(channels, mask.POOLER_RESOLUTION))
        options["mask_head"].vis_period = 0  # the main head draws its masks; pictures have no scope of their own
        options["mask_pooler"] = _pooler_options(mask)
    return ConsistentSupervision(laterals, **options)


def load_without_auxiliary_weights(module: nn.Module) -> None:
    """Let a ``module`` without ``consistent_supervision`` load weights that were trained with it, without a warning."""

    def drop(module, state_dict, prefix, *_):
        if module.consistent_supervision is None:
            for key in [key for key in state_dict if key.startswith(f"{prefix}consistent_supervision.")]:
                del state_dict[key]

    module.register_load_state_dict_pre_hook(drop)


def _log_apart(name: str):
    """Scope for the values that the auxiliary heads log, so that they do not overwrite those of the main heads."""
    return get_event_storage().name_scope(f"consistent_supervision/{name}")


def _region(channels: int, resolution: int) -> ShapeSpec:
    return ShapeSpec(channels=channels, height=resolution, width=resolution)


def _pooler_options(head: CfgNode) -> dict:
    return dict(
        output_size=head.POOLER_RESOLUTION, sampling_ratio=head.POOLER_SAMPLING_RATIO, pooler_type=head.POOLER_TYPE
    )
