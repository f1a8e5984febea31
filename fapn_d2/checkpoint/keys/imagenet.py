"""Names of the parameters of bottom-up networks in public ImageNet files and here; deep-stem ResNets both ways.

==========================================================  ==============================
public                                                      fapn_d2
==========================================================  ==============================
``conv1.{0,3,6}.*``                                         ``stem.conv{1,2,3}.*``
``conv1.{1,4}.*``, ``bn1.*`` outside of a layer             ``stem.conv{1,2,3}.norm.*``
``layer{i}.{b}.conv{k}.*``                                  ``res{i+1}.{b}.conv{k}.*``
``layer{i}.{b}.bn{k}.*``                                    ``res{i+1}.{b}.conv{k}.norm.*``
``layer{i}.{b}.downsample.0.*``, ``...downsample.1.*``      ``res{i+1}.{b}.shortcut.*``, ``...shortcut.norm.*``
==========================================================  ==============================

The public names are those of timm's ``resnet50s`` and ``resnet101s`` and of the files that the authors of SFNet give.
In their networks the stem is called ``layer0.0`` and its last norm ``layer0.1``. Shapes and values are the same.
timm's other deep stems, as in ``resnet18d``, have another shape. The names of DF1 and DF2 are in df.py.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from .df import df_module_to_ours

#: Parameters that only one of the networks has.
_MARKS = {
    "ResNet": {"conv1.0.weight", "conv1.6.weight", "bn1.weight", "layer4.0.conv1.weight"},
    "DF1": {"stage1.0.weight", "stage5.0.conv1.weight"},
    "DF2": {"stage1.0.weight", "stage2_1.0.conv1.weight"},
}

_STEM_TO_OURS = {
    "conv1.0": "stem.conv1",
    "conv1.1": "stem.conv1.norm",
    "conv1.3": "stem.conv2",
    "conv1.4": "stem.conv2.norm",
    "conv1.6": "stem.conv3",
    "bn1": "stem.conv3.norm",
}
_STEM_TO_PUBLIC = {ours: public for public, ours in _STEM_TO_OURS.items()}
_PART_TO_OURS = {"downsample.0": "shortcut", "downsample.1": "shortcut.norm"} | {
    name: ours for k in (1, 2, 3) for name, ours in ((f"conv{k}", f"conv{k}"), (f"bn{k}", f"conv{k}.norm"))
}
_PART_TO_PUBLIC = {ours: public for public, ours in _PART_TO_OURS.items()}


def resnet_key_to_ours(key: str) -> str:
    """Public name -> ours, without a prefix. Names outside of the network do not change."""
    key = re.sub(r"^layer0\.0\.", "conv1.", key)
    key = re.sub(r"^layer0\.1\.", "bn1.", key)
    module, _, tensor = key.rpartition(".")
    if module in _STEM_TO_OURS:
        return f"{_STEM_TO_OURS[module]}.{tensor}"
    found = re.fullmatch(r"layer(\d)\.(\d+)\.(.+)", module)
    if found is None or found[3] not in _PART_TO_OURS:
        return key
    return f"res{int(found[1]) + 1}.{found[2]}.{_PART_TO_OURS[found[3]]}.{tensor}"


def resnet_key_to_public(key: str) -> str:
    """Our name -> the name in ImageNet files."""
    module, _, tensor = key.rpartition(".")
    if module in _STEM_TO_PUBLIC:
        return f"{_STEM_TO_PUBLIC[module]}.{tensor}"
    found = re.fullmatch(r"res(\d)\.(\d+)\.(.+)", module)
    if found is None or found[3] not in _PART_TO_PUBLIC:
        return key
    return f"layer{int(found[1]) - 1}.{found[2]}.{_PART_TO_PUBLIC[found[3]]}.{tensor}"


def public_network(names: Iterable[str]) -> str | None:
    """ "ResNet" (with a deep stem), "DF1" or "DF2" by the public names of its parameters; None for others."""
    names = set(names)
    return next((network for network, marks in _MARKS.items() if marks <= names), None)


def imagenet_state_to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a public ImageNet file under our names, without prefix, classifier and batch counters.

    Raises:
        ValueError: :func:`public_network` does not know the network, or the network does not have a name in the file.
    """
    network = public_network(state)
    if network is None:
        raise ValueError("these are not ImageNet weights of a deep-stem ResNet, DF1 or DF2")
    converted = {}
    for key, value in state.items():
        if key.startswith("fc.") or key.endswith("num_batches_tracked"):
            continue
        module, _, tensor = key.rpartition(".")
        ours = resnet_key_to_ours(key) if network == "ResNet" else f"{df_module_to_ours(module, network)}.{tensor}"
        if ours == key or ours.startswith("None."):
            raise ValueError(f"{key!r} is not a parameter of {network}")
        converted[ours] = value
    return converted
