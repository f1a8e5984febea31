"""Names of the parameters of the official PanopticFCN, with its FPN or with FaPN's neck, and ours, both ways.

=========================================================  ==============================================
official                                                   fapn_d2
=========================================================  ==============================================
``position_head.position_head.position_head_head_{i}.*``   ``position_head.tower.{i-1}.*``
``kernel_head.kernel_head.kernel_head_head_{i}.*``         ``kernel_head.tower.{i-1}.*``
``feature_encoder.encode_head.encode_head_head_{i}.*``     ``feature_encoder.tower.{i-1}.*``
in each of these: ``offset_mask_conv.*``                   ``offset_mask.*``
``dcnv2.weight``                                           ``deform_conv.weight``
``dcnv2.norm.*``                                           ``norm.*``
``position_head.out_inst.*``                               ``position_head.center.*``
``position_head.out_sem.*``                                ``position_head.region.*``
``kernel_head.out_conv.*``                                 ``kernel_head.kernel.*``
``{thing,stuff}_generator.embed_extractor.*``              ``{thing,stuff}_generator.embed.*``
``semantic_fpn.*``, ``backbone.*`` with FPN                the same
``backbone.*`` with FaPN's neck                            see fapn.py
=========================================================  ==============================================

Shapes and values are the same.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from .fapn import fapn_state_to_official, fapn_state_to_ours

# The module that contains a head's hidden layers, and the first part of their names.
_TOWERS = {
    "position_head": ("position_head", "position_head_head"),
    "kernel_head": ("kernel_head", "kernel_head_head"),
    "feature_encoder": ("encode_head", "encode_head_head"),
}
# official, ours
_LAYERS = (("dcnv2.norm", "norm"), ("dcnv2", "deform_conv"), ("offset_mask_conv", "offset_mask"))
_PREDICTORS = (
    ("position_head.out_inst", "position_head.center"),
    ("position_head.out_sem", "position_head.region"),
    ("kernel_head.out_conv", "kernel_head.kernel"),
    ("thing_generator.embed_extractor", "thing_generator.embed"),
    ("stuff_generator.embed_extractor", "stuff_generator.embed"),
)
_OUR_TOWER = re.compile(r"^(\w+)\.tower\.(\d+)\.(.*)$")


def panoptic_fcn_state_to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official names -> ours, for a whole network.

    Raises:
        ValueError: the state dict has no head of the official PanopticFCN, or only a part of FaPN's neck.
    """
    _check(state, "position_head.out_inst.weight", "official PanopticFCN")
    converted = {_key_to_ours(key): value for key, value in state.items()}
    has_fapn = any(key.startswith("backbone.fan_align") for key in state)
    return fapn_state_to_ours(converted) if has_fapn else converted


def panoptic_fcn_state_to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names -> official ones; the inverse of :func:`panoptic_fcn_state_to_ours`.

    Raises:
        ValueError: the state dict has no head of our PanopticFCN, or it has a neck without official names.
    """
    _check(state, "position_head.center.weight", "PanopticFCN of ours")
    has_align = any(key.startswith("backbone.fpn_align") for key in state)
    renamed = fapn_state_to_official(state) if has_align else state
    deformable = {key.removesuffix("deform_conv.weight") for key in state if key.endswith("deform_conv.weight")}
    return {_key_to_official(key, deformable): value for key, value in renamed.items()}


def _check(state: Mapping[str, Tensor], name: str, network: str) -> None:
    if name not in state:
        some = ", ".join(list(state)[:3])
        raise ValueError(f"there is no {network} ({name}, ...) among the {len(state)} names {some}, ...")


def _key_to_ours(key: str) -> str:
    for head, (module, layer) in _TOWERS.items():
        match = re.fullmatch(rf"{head}\.{module}\.{layer}_(\d+)\.(.*)", key)
        if match:
            return f"{head}.tower.{int(match[1]) - 1}.{_replace_start(match[2], _LAYERS)}"
    return _replace_start(key, _PREDICTORS)


def _key_to_official(key: str, deformable: set[str]) -> str:
    match = _OUR_TOWER.match(key)
    if match and match[1] in _TOWERS:
        module, layer = _TOWERS[match[1]]
        rest = match[3]
        if key.removesuffix(rest) in deformable:  # the norm belongs to the convolution; elsewhere both say "norm"
            rest = _replace_start(rest, [(ours, official) for official, ours in _LAYERS])
        return f"{match[1]}.{module}.{layer}_{int(match[2]) + 1}.{rest}"
    return _replace_start(key, [(ours, official) for official, ours in _PREDICTORS])


def _replace_start(key: str, pairs) -> str:
    for old, new in pairs:
        if key == old or key.startswith(f"{old}."):
            return new + key[len(old) :]
    return key
