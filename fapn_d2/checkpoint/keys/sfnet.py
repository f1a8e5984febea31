"""State dicts of the official SFNet (SFSegNets) and ours, both ways.

================================================  ======================================================
official                                          fapn_d2
================================================  ======================================================
``layer0.*`` to ``layer4.*``                      ``backbone.bottom_up.*``, see imagenet.py
``backbone.stage*``, of DF1 and DF2               ``backbone.bottom_up.*``, see df.py
``head.ppm.stages.{k}.{1,2}``                     ``backbone.context.branches.{k}.{conv,norm}``
``head.ppm.bottleneck.{0,1}``                     ``backbone.context.bottleneck``, ``...norm``
``head.fpn_in.{i}.{0,1}``                         ``backbone.fpn_lateral{s}``, ``...norm``
``head.fpn_out_align.{i}.{down_h,down_l,``        ``backbone.fpn_align{s}.{reduce_coarse,reduce_fine,``
``flow_make}``                                    ``flow}``
``head.fpn_out.{i}.0.{0,1}``                      ``backbone.fpn_output{s}``, ``...norm``
``head.conv_last.0.{0,1}``, ``head.conv_last.1``  ``sem_seg_head.fuse``, ``...norm``, ``sem_seg_head.predictor``
``head.dsn.{i}.{0,1,4}``                          ``sem_seg_head.auxiliary.merged{s}.{conv,conv.norm,predictor}``
================================================  ======================================================

i counts levels from the finest; s = i + the finest level's stage, 2 for ResNets, 3 for DF2, 4 for DF1. Shapes and
values are the same. Official weights of DF fill a network with MODEL.FPN.OUT_CHANNELS 64 and
MODEL.SEM_SEG_HEAD.CONVS_DIM 64. Those of ResNets give the official outputs with MODEL.RESNETS.CONV2_DILATION
[1, 1, 2, 4].

The state dict of the official head module alone has the same names without ``head.``. Its names do not say whether a
head of three levels belongs to DF1 or DF2, so the caller says it.
"""

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from .df import df_module_to_official, df_module_to_ours
from .imagenet import resnet_key_to_ours, resnet_key_to_public

_OURS = "backbone.bottom_up."
_DF = "backbone."
_HEAD = "head."
#: Name of the bottom-up network -> stage of the finest level, number of levels, the beginning of an official name that
#: only this network has, and the beginning of one of our names that only this network has.
_NETWORKS = {
    "ResNet": (2, 4, "layer0.", "backbone.bottom_up.stem.conv3."),
    "DF2": (3, 3, "backbone.stage2_1.", "backbone.bottom_up.res7."),
    "DF1": (4, 3, "backbone.stage5.", "backbone.bottom_up.stem.conv2."),
}


def sfnet_state_to_ours(state: Mapping[str, Tensor], *, network: str = "") -> dict[str, Tensor]:
    """Official names -> ours, of a whole network or of its head alone.

    Args:
        state: with the names of the whole network, or with those of the head module (with or without ``head.``).
        network: "ResNet", "DF1" or "DF2", for a head of three levels. Otherwise the names say it.

    Raises:
        ValueError: a name that is not the official network's, or a head of three levels without ``network``.
    """
    found = _network(state, official=True)
    network = found or _network_of_official_head(state, network)
    parts = _decoder(network)

    def rename(module: str) -> str | None:
        part = module if found or module.startswith(_HEAD) else _HEAD + module
        if part in parts:
            return parts[part]
        if not found:
            return None
        if network == "ResNet":
            ours = _renamed(resnet_key_to_ours, module)
        else:
            ours = df_module_to_ours(module.removeprefix(_DF), network) if module.startswith(_DF) else None
        return ours and _OURS + ours

    whose = "of the official SFNet" if found else f"of the head of the official SFNet on {network}"
    return _converted(state, rename, whose)


def sfnet_state_to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names -> the official ones: a whole network, or the pyramid and head alone, which become a head module.

    Raises:
        ValueError: a name without an official counterpart.
    """
    found = _network(state, official=False)
    network = found or _network_of_our_head(state)
    parts = {ours: official for official, ours in _decoder(network).items()}

    def rename(module: str) -> str | None:
        if not module.startswith(_OURS):
            official = parts.get(module)
            return official if found else official and official.removeprefix(_HEAD)
        module = module.removeprefix(_OURS)
        if network == "ResNet":
            return _with_layer0(_renamed(resnet_key_to_public, module))
        official = df_module_to_official(module, network)
        return official and _DF + official

    return _converted(state, rename, "of an SFNet with the official parts")


def _network(state: Mapping[str, Tensor], *, official: bool) -> str:
    """The network whose bottom-up part is in the state dict; "" for a head alone."""
    for name, (_, _, theirs, ours) in _NETWORKS.items():
        if any(key.startswith(theirs if official else ours) for key in state):
            return name
    inside = re.compile(r"(head\.)?(ppm|fpn_in)\." if official else r"backbone\.(fpn_lateral|context\.)")
    if any(inside.match(key) for key in state):
        return ""
    beginnings = ", ".join(entry[2 if official else 3] + "*" for entry in _NETWORKS.values())
    raise ValueError(
        f"these are not weights of an SFNet on ResNet, DF1 or DF2, or of its head: no name begins with {beginnings}, "
        f"{'ppm.* or fpn_in.*' if official else 'backbone.context.* or backbone.fpn_lateral*'}"
    )


def _network_of_official_head(state: Mapping[str, Tensor], given: str) -> str:
    """The network that a head module belongs to, from its number of levels and what the caller says."""
    levels = 1 + len({found.group(1) for key in state if (found := re.match(r"(?:head\.)?fpn_in\.(\d+)\.", key))})
    fitting = [name for name, entry in _NETWORKS.items() if entry[1] == levels]
    if given in fitting:
        return given
    if len(fitting) == 1 and not given:
        return fitting[0]
    fits = " or ".join(sorted(fitting)) or "none of the networks"
    raise ValueError(
        f"a head of {levels} levels belongs to {fits}; "
        + (f"it cannot be that of {given}" if given else "say which one by --paper sfnet-df1 or --paper sfnet-df2")
    )


def _network_of_our_head(state: Mapping[str, Tensor]) -> str:
    laterals = [int(found.group(1)) for key in state if (found := re.match(r"backbone\.fpn_lateral(\d+)\.", key))]
    for name, (first, *_) in _NETWORKS.items():
        if min(laterals, default=0) == first:
            return name
    raise ValueError(
        "the pyramid is not that of an SFNet on ResNet, DF2 or DF1, whose finest lateral convolution is "
        "backbone.fpn_lateral2, 3 or 4"
    )


def _decoder(network: str) -> dict[str, str]:
    """Official module -> our module, for all modules outside of the bottom-up network."""
    first, levels, _, _ = _NETWORKS[network]
    modules = {
        "head.ppm.bottleneck.0": "backbone.context.bottleneck",
        "head.ppm.bottleneck.1": "backbone.context.bottleneck.norm",
        "head.conv_last.0.0": "sem_seg_head.fuse",
        "head.conv_last.0.1": "sem_seg_head.fuse.norm",
        "head.conv_last.1": "sem_seg_head.predictor",
    }
    for k in range(4):
        modules[f"head.ppm.stages.{k}.1"] = f"backbone.context.branches.{k}.conv"
        modules[f"head.ppm.stages.{k}.2"] = f"backbone.context.branches.{k}.norm"
    for i in range(levels - 1):
        stage = first + i
        modules |= {
            f"head.fpn_in.{i}.0": f"backbone.fpn_lateral{stage}",
            f"head.fpn_in.{i}.1": f"backbone.fpn_lateral{stage}.norm",
            f"head.fpn_out.{i}.0.0": f"backbone.fpn_output{stage}",
            f"head.fpn_out.{i}.0.1": f"backbone.fpn_output{stage}.norm",
            f"head.fpn_out_align.{i}.down_h": f"backbone.fpn_align{stage}.reduce_coarse",
            f"head.fpn_out_align.{i}.down_l": f"backbone.fpn_align{stage}.reduce_fine",
            f"head.fpn_out_align.{i}.flow_make": f"backbone.fpn_align{stage}.flow",
            f"head.dsn.{i}.0": f"sem_seg_head.auxiliary.merged{stage}.conv",
            f"head.dsn.{i}.1": f"sem_seg_head.auxiliary.merged{stage}.conv.norm",
            f"head.dsn.{i}.4": f"sem_seg_head.auxiliary.merged{stage}.predictor",
        }
    return modules


def _converted(state: Mapping[str, Tensor], rename: Callable[[str], str | None], whose: str) -> dict[str, Tensor]:
    converted = {}
    for key, value in state.items():
        module, _, tensor = key.rpartition(".")
        renamed = rename(module)
        if renamed is None:
            raise ValueError(f"{key!r} is not a parameter {whose}")
        converted[f"{renamed}.{tensor}"] = value
    return converted


def _renamed(rename_key: Callable[[str], str], module: str) -> str | None:
    """The new name; None if the renaming does not change the name, because then it does not know it."""
    key = f"{module}.weight"
    renamed = rename_key(key)
    return renamed.rpartition(".")[0] if renamed != key else None


def _with_layer0(module: str | None) -> str | None:
    """The stem's public name -> its name in the official networks."""
    if module == "bn1":
        return "layer0.1"
    if module is not None and module.startswith("conv1."):
        return "layer0.0." + module.removeprefix("conv1.")
    return module
