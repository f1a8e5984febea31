"""Semantic heads on a pyramid: SFNet's final fusion, and the head on one level of real-time networks.

Legend: N images, C_i channels and H_i x W_i size of input level i, finest first; D channels of the head; K classes.
"""

from collections.abc import Callable, Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from ..layers.conv import conv_norm_relu
from ..layers.flow_align import FlowAlign
from ..layers.resize import resize_to
from .deep_supervision import AuxiliaryClassifier, Supervision, loss_from_config, supervision_from_config
from .input_features import require_features
from .sized_head import SizedHead

FUSION_ALIGNS = ("bilinear", "flow")


@SEM_SEG_HEADS_REGISTRY.register()
class AlignedDecoderHead(SizedHead):
    """All levels, resampled to the finest size and concatenated -> 3x3 convolution, norm, ReLU -> 1x1 convolution.

    SFNet, Section 3.3 and Figure 4; the top-down part of its decoder is the pyramid. The paper's text aligns by flow
    here too ("flow"). The authors' code resamples bilinearly, and the printed GFLOPs and parameters are those of the
    code.

    With deep supervision, further maps of the feature dict have their own classifier and loss in training.

    Args:
        input_shape: channels and stride of the levels that are read, finest first.
        num_classes: number of classes K.
        channels: number of channels D of the hidden layer. 0: there is no hidden layer and the classifier reads the
            concatenated levels, as in PSPNet, where the hidden layer is that of pyramid pooling.
        norm: name for Detectron2's ``get_norm``.
        loss: (logits, target) -> scalar; see ``fapn_d2.layers.losses``.
        loss_weight: factor on all losses.
        ignore_value: label of pixels without ground truth; ``loss`` must ignore the same label.
        supervision: the maps that have their own classifier.
        dropout: probability that a channel is dropped in those classifiers.
        fusion_align: how coarser levels are brought to the finest size; one of FUSION_ALIGNS.
        flow_unit: unit of the flow for "flow"; see ``flow_warp``.
        align_corners: whether all resampling uses ``align_corners``, that of the logits too.

    Raises:
        ValueError: ``input_shape`` is empty or ``fusion_align`` is unknown.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        channels: int,
        norm: str,
        loss: Callable[[Tensor, Tensor], Tensor],
        loss_weight: float = 1.0,
        ignore_value: int = 255,
        supervision: Sequence[Supervision] = (),
        dropout: float = 0.1,
        fusion_align: str = "bilinear",
        flow_unit: float = 0.5,
        align_corners: bool = True,
    ):
        super().__init__()
        if not input_shape:
            raise ValueError(f"{type(self).__name__} reads no level; name some in MODEL.SEM_SEG_HEAD.IN_FEATURES")
        if fusion_align not in FUSION_ALIGNS:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.FUSION_ALIGN: unknown {fusion_align!r}; allowed: {', '.join(FUSION_ALIGNS)}"
            )
        self.in_features = tuple(input_shape)
        self.stride = input_shape[self.in_features[0]].stride
        self.resize_mode = "bilinear_corners" if align_corners else "bilinear"
        self.loss = loss
        self.loss_weight = loss_weight
        self.ignore_value = ignore_value
        self.supervision = tuple(supervision)
        if fusion_align == "flow":
            self.aligns = nn.ModuleDict(
                {
                    name: FlowAlign(input_shape[name].channels, unit=flow_unit, align_corners=align_corners)
                    for name in self.in_features[1:]
                }
            )
        else:
            self.aligns = None
        width = sum(shape.channels for shape in input_shape.values())
        self.fuse = conv_norm_relu(width, channels, kernel_size=3, norm=norm) if channels else nn.Identity()
        self.predictor = Conv2d(channels or width, num_classes, kernel_size=1)
        self.auxiliary = nn.ModuleDict(
            {
                s.feature: AuxiliaryClassifier(s.in_channels, s.channels, num_classes, norm=norm, dropout=dropout)
                for s in self.supervision
            }
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        head = cfg.MODEL.SEM_SEG_HEAD
        require_features("MODEL.SEM_SEG_HEAD.IN_FEATURES", head.IN_FEATURES, input_shape, some=False)
        return {
            # in the backbone's order, finest first
            "input_shape": {name: shape for name, shape in input_shape.items() if name in head.IN_FEATURES},
            "num_classes": head.NUM_CLASSES,
            "channels": head.CONVS_DIM,
            "norm": head.NORM,
            "loss": loss_from_config(head.LOSS, cfg),
            "loss_weight": head.LOSS_WEIGHT,
            "ignore_value": head.IGNORE_VALUE,
            "supervision": supervision_from_config(cfg, input_shape),
            "dropout": head.DEEP_SUPERVISION.DROPOUT,
            "fusion_align": head.FUSION_ALIGN,
            "flow_unit": cfg.MODEL.NECK.FLOW.UNIT,
            "align_corners": head.ALIGN_CORNERS,
        }

    def forward(
        self, features: dict[str, Tensor], targets: Tensor | None = None, *, size: tuple[int, int] | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """See ``SizedHead``."""
        logits = self.layers(features)
        if self.training:
            return None, self.losses(logits, features, targets)
        if size is None:
            size = tuple(self.stride * side for side in logits.shape[-2:])
        return resize_to(logits, size, self.resize_mode), {}

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        """Maps by name -> logits (N, K, H_0, W_0) at the finest level's size."""
        finest, *coarser = (features[name] for name in self.in_features)
        if self.aligns is None:
            aligned = [resize_to(x, finest.shape[-2:], self.resize_mode) for x in coarser]
        else:
            aligned = [align(finest, x) for align, x in zip(self.aligns.values(), coarser)]
        return self.predictor(self.fuse(torch.cat([finest, *aligned], dim=1)))

    def losses(self, logits: Tensor, features: dict[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        """Weighted losses at the size of the targets: "loss_sem_seg", and "loss_sem_seg_<map>" per supervised map."""
        if targets is None:
            raise ValueError(f"{type(self).__name__} is trained on labels, but the samples have no 'sem_seg'")

        def at_full_size(logits):  # in float32 or better, as Detectron2's heads do it (pytorch#48163)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            return resize_to(logits, targets.shape[-2:], self.resize_mode)

        losses = {"loss_sem_seg": self.loss_weight * self.loss(at_full_size(logits), targets)}
        for s in self.supervision:
            auxiliary = at_full_size(self.auxiliary[s.feature](features[s.feature]))
            losses[f"loss_sem_seg_{s.feature}"] = self.loss_weight * s.weight * s.loss(auxiliary, targets)
        return losses


@SEM_SEG_HEADS_REGISTRY.register()
class SingleLevelHead(AlignedDecoderHead):
    """3x3 convolution, norm, ReLU and 1x1 on one map: FCN's head, and that of FaPN's real-time network on P3.

    FaPN, Appendix B, says "a prediction layer" only. With a hidden layer of 64 channels the parameters and FLOPs are
    those of Table I.

    Raises:
        ValueError: MODEL.SEM_SEG_HEAD.IN_FEATURES does not name exactly one map.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        features = list(cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES)
        if len(features) != 1:
            raise ValueError(f"{cls.__name__} reads one map, but MODEL.SEM_SEG_HEAD.IN_FEATURES = {features}; name one")
        return super().from_config(cfg, input_shape)
