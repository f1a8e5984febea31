"""ImageNet weights of torchvision: ``MODEL.WEIGHTS torchvision://resnet50`` or ``torchvision://shufflenet_v2_x1_5``.

Detectron2's ResNet equals torchvision's if MODEL.RESNETS.STRIDE_IN_1X1 is False and images are normalised as in
torchvision. Only the names of the parameters differ. Our ShuffleNetV2 has torchvision's names.
"""

import re
import urllib.error
from collections.abc import Iterable, Mapping

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

from ..backbones.shufflenet_v2 import ShuffleNetV2
from ..config.lookup import value_of
from .keys.imagenet import imagenet_state_to_ours, public_network

PREFIX = "torchvision://"
MODELS = ("resnet18", "resnet34", "resnet50", "resnet101")
MODELS += ("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0")

#: The input that torchvision's weights were trained on, in Detectron2's units (0..255).
INPUT = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
}
_RENAMED = (
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    (r"^layer(\d)\.", lambda m: f"res{int(m[1]) + 1}."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
)


def is_torchvision_resnet(names: Iterable[str]) -> bool:
    """Whether names are those of torchvision's and timm's ResNets, or of the ImageNet files of SFNet's authors."""
    names = set(names)
    plain = {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight"} <= names
    return plain or public_network(names) is not None


def convert_resnet(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename torchvision's parameters to those of Detectron2's ResNet, without the classifier and batch counters."""
    if public_network(weights) is not None:
        return imagenet_state_to_ours(weights)
    converted = {}
    for name, value in weights.items():
        if name.startswith("fc.") or name.endswith("num_batches_tracked"):
            continue
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        converted[name] = value
    return converted


def shufflenet_for(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
    """Rename weights of torchvision's ShuffleNetV2 to the names of the ShuffleNetV2 in ``model``.

    Returns:
        The renamed weights without the classifier; None if ``model`` does not have a ShuffleNetV2, or if ``weights``
        are not torchvision's.
    """
    places = [name for name, module in model.named_modules() if isinstance(module, ShuffleNetV2)]
    if not places or not {"conv1.0.weight", "stage2.0.branch1.0.weight"} <= set(weights):
        return None
    prefix = f"{places[0]}." if places[0] else ""
    return {f"{prefix}{name}": value for name, value in weights.items() if not name.startswith("fc.")}


def download(url: str) -> dict[str, torch.Tensor]:
    """The state dict of ``torchvision://<model>``, from the cache (``$TORCH_HOME/hub/checkpoints``) or the network.

    One process per machine downloads the file and checks its hash.

    Raises:
        ValueError: the model is unknown (the message lists the known models), or it is not in the cache and cannot be
            downloaded.
    """
    name = url.removeprefix(PREFIX)
    if name not in MODELS:
        raise ValueError(f"unknown weights {url}; known are {', '.join(PREFIX + model for model in MODELS)}")
    import torchvision

    # Addresses may differ between versions of torchvision, so its enumeration gives them. The weights are the same.
    address = torchvision.models.get_model_weights(name).IMAGENET1K_V1.url
    try:
        if comm.get_local_rank() == 0:
            weights = _fetch(address)
    finally:
        comm.synchronize()
    return weights if comm.get_local_rank() == 0 else _fetch(address)


def _fetch(address: str) -> dict[str, torch.Tensor]:
    try:
        return torch.hub.load_state_dict_from_url(address, map_location="cpu", check_hash=True, weights_only=True)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise ValueError(
            f"cannot download {address} ({error}); put the file into {torch.hub.get_dir()}/checkpoints, "
            "or give the path of a copy as MODEL.WEIGHTS"
        ) from error


def input_mismatches(cfg: CfgNode, *, resnet: bool = True) -> list[str]:
    """KEY VALUE pairs that a config needs for torchvision's weights and does not have.

    Args:
        cfg: the config of the network.
        resnet: whether the weights are those of a ResNet.
    """
    wrong = []
    for key, expected in INPUT.items():
        value = value_of(cfg, key)
        same = value == expected if isinstance(expected, str) else _close(value, expected)
        if not same:
            wrong.append(f'{key} "{expected}"')
    if resnet and cfg.MODEL.RESNETS.DEPTH >= 50 and cfg.MODEL.RESNETS.STRIDE_IN_1X1:
        wrong.append("MODEL.RESNETS.STRIDE_IN_1X1 False")
    return wrong


def _close(values: Iterable[float], expected: Iterable[float]) -> bool:
    """Whether values are equal up to rounding: configs write the same mean as 123.675 or 123.68."""
    values, expected = list(values), list(expected)
    return len(values) == len(expected) and all(abs(v - e) < 0.01 for v, e in zip(values, expected))
