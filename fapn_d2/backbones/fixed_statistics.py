"""Batch norms that keep their loaded statistics while scale and shift are trained: mmdetection's ``norm_eval``.

Detectron2's FrozenBN fixes the scale and shift too.
"""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import ResNet, build_resnet_backbone
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class FixedStatistics:
    """Mixin, to be named before a module class: the norms in ``fixed_norms`` stay in evaluation mode in training."""

    fixed_norms: tuple[nn.Module, ...] = ()  # a tuple, so that they are not registered a second time

    def train(self, mode: bool = True):
        super().train(mode)
        for norm in self.fixed_norms:
            norm.eval()
        return self


def batch_norms(module: nn.Module) -> tuple[nn.Module, ...]:
    """All batch norms in ``module``, subclasses included."""
    return tuple(m for m in module.modules() if isinstance(m, _BatchNorm))


class FixedStatisticsResNet(FixedStatistics, ResNet):
    """Detectron2's ResNet with fixed statistics, built from the stem and the stages of a given ResNet."""

    def __init__(self, resnet: ResNet):
        out_features = list(resnet.output_shape())
        super().__init__(resnet.stem, [list(stage) for stage in resnet.stages], out_features=out_features)
        self.fixed_norms = batch_norms(self)


@BACKBONE_REGISTRY.register()
def build_resnet_fixed_statistics_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FixedStatisticsResNet:
    """MODEL.NECK.BOTTOM_UP: MODEL.RESNETS with NORM "BN"; stages below MODEL.BACKBONE.FREEZE_AT are fully frozen.

    Raises:
        ValueError: MODEL.RESNETS.NORM is not "BN".
    """
    norm = cfg.MODEL.RESNETS.NORM
    if norm != "BN":
        raise ValueError(
            f'MODEL.RESNETS.NORM = {norm!r}, but {build_resnet_fixed_statistics_backbone.__name__} needs "BN", whose '
            "statistics it fixes; build_resnet_backbone takes other norms"
        )
    return FixedStatisticsResNet(build_resnet_backbone(cfg, input_shape))
