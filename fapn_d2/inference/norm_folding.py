"""Folding the batch normalisations of a trained network into the convolutions before them."""

from itertools import pairwise

from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..layers.pyramid_pooling import PooledBranch

#: Norms that are an affine map of each channel in evaluation mode.
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d)


def fold_norms(network: nn.Module) -> int:
    """Fold all norms that can be folded, in place, for inference only. Outputs change by rounding alone.

    A norm can be folded if it belongs to Detectron2's ``Conv2d``, follows a convolution in an ``nn.Sequential``, or is
    in a branch of pyramid pooling. All other norms, and norms that use statistics of the image, stay as they are.

    Returns:
        The number of folded norms.

    Raises:
        ValueError: the network is in training mode.
    """
    if network.training:
        raise ValueError("norms are folded with their final statistics: call eval() on the network first")
    return sum(_fold_in(module) for module in list(network.modules()))


def _fold_in(module: nn.Module) -> int:
    """Fold the norms that belong to this module itself, not to its children."""
    if isinstance(module, Conv2d) and _foldable(module.norm):
        _fold(module, module.norm)
        module.norm = None
        return 1
    if isinstance(module, PooledBranch) and _foldable(module.norm):
        _fold(module.conv, module.norm)
        module.norm = nn.Identity()
        return 1
    folded = 0
    if isinstance(module, nn.Sequential):
        for i, (first, second) in enumerate(pairwise(list(module))):
            if type(first) is nn.Conv2d and _foldable(second):
                _fold(first, second)
                module[i + 1] = nn.Identity()
                folded += 1
    return folded


def _foldable(norm: nn.Module | None) -> bool:
    return isinstance(norm, NORMS) and norm.running_mean is not None


def _fold(conv: nn.Conv2d, norm: nn.Module) -> None:
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
