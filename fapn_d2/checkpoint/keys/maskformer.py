"""State dicts of the official MaskFormer, with FPN's or FaPN's pixel decoder, and ours, both ways.

=====================================================  ================================================
official                                               fapn_d2
=====================================================  ================================================
``sem_seg_head.pixel_decoder.layer_{i}.norm.*``        ``sem_seg_head.pixel_decoder.norm_{i}.*``
``...align_{i}.offset.norm.*`` (the same layer)        stored only once
``...align_{i}.offset.weight``                         ``...align_{i}.offset_reduce.weight``
``...align_{i}.dcpack_L2.conv_offset_mask.*``          ``...align_{i}.offset_mask.*``
``...align_{i}.dcpack_L2.*``                           ``...align_{i}.deform_conv.*``
``backbone.*`` of ResNets                              the same
``backbone.{patch_embed,layers.{i}}.*`` of Swin        ``backbone.body.{patch_embed,layers_{i}}.*``
``backbone.layers.{i}.downsample.*`` of Swin           ``backbone.body.layers_{i+1}.downsample.*``
``...attn.relative_position_index`` of Swin            computed from the window's size
``backbone.norm{i}.*`` of Swin                         the same
``criterion.empty_weight``                             MODEL.MASK_FORMER.NO_OBJECT_WEIGHT
everything else                                        the same
=====================================================  ================================================

Shapes and values are the same. Checkpoints of the first version of the head are read too; there the pixel decoder has
no prefix of its own. Our checkpoints are converted to the second version.
"""

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ...backbones.swin import relative_position_index

_DECODER = "sem_seg_head.pixel_decoder."
_PREDICTOR = "sem_seg_head.predictor."
_EMPTY_WEIGHT = "criterion.empty_weight"
_CLASSES = _PREDICTOR + "class_embed.bias"
#: Weight of "no object" in the official recipes.
_NO_OBJECT_WEIGHT = 0.1

# (beginning of the official name, beginning of ours, what is added to the number i). The first that fits is applied.
_MAP = (
    (_DECODER + "layer_{i}.norm.", _DECODER + "norm_{i}.", 0),
    (_DECODER + "align_{i}.offset.", _DECODER + "align_{i}.offset_reduce.", 0),
    (_DECODER + "align_{i}.dcpack_L2.conv_offset_mask.", _DECODER + "align_{i}.offset_mask.", 0),
    (_DECODER + "align_{i}.dcpack_L2.", _DECODER + "align_{i}.deform_conv.", 0),
    ("backbone.layers.{i}.downsample.", "backbone.body.layers_{i}.downsample.", 1),
    ("backbone.layers.{i}.", "backbone.body.layers_{i}.", 0),
    ("backbone.patch_embed.", "backbone.body.patch_embed.", 0),
)


def _rules(pairs) -> tuple[tuple[re.Pattern, str, int], ...]:
    return tuple((re.compile(re.escape(a).replace(r"\{i\}", r"(?P<i>\d)")), b, shift) for a, b, shift in pairs)


_TO_OURS = _rules(_MAP)
_TO_OFFICIAL = _rules((ours, official, -shift) for official, ours, shift in _MAP)
_SHARED_NORM = re.compile(r"^(sem_seg_head\.pixel_decoder\.)align_(\d)\.offset\.norm\.(.*)$")
_MADE = re.compile(r"^backbone\.layers\.\d\.blocks\.\d+\.attn\.relative_position_index$")
_BIAS_TABLE = re.compile(r"^(backbone\.layers\.\d\.blocks\.\d+\.attn\.)relative_position_bias_table$")


def maskformer_state_to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official names -> ours, of a whole network or of its head.

    Raises:
        ValueError: the names are not those of the official MaskFormer.
    """
    if not any(key.startswith(_PREDICTOR) for key in state):
        raise ValueError(f"these are not weights of MaskFormer: no name begins with {_PREDICTOR}")
    converted = {}
    for key, value in state.items():
        name = _second_version(key)
        if name != _EMPTY_WEIGHT and not _SHARED_NORM.match(name) and not _MADE.match(name):
            converted[_rename(name, _TO_OURS)] = value
    return converted


def check_official_maskformer(state: Mapping[str, Tensor]) -> None:
    """Raise ValueError if the norm that two layers of FaPN's pixel decoder share has two different values."""
    for key, value in state.items():
        if _SHARED_NORM.match(_second_version(key)):
            other = re.sub(r"align_(\d)\.offset\.norm\.", r"layer_\1.norm.", key)
            if other not in state:
                raise ValueError(f"the file has {key} without {other}, which is the same layer in FaPN's pixel decoder")
            if not torch.equal(value, state[other]):
                raise ValueError(f"{key} and {other} are one layer in FaPN's pixel decoder, but their values differ")


def maskformer_state_to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names -> those of the official code; the inverse of :func:`maskformer_state_to_ours`.

    Raises:
        ValueError: the weights are not those of a MaskFormer with the official parts.
    """
    if not any(key.startswith(_PREDICTOR) for key in state):
        raise ValueError(f"these are not weights of a MaskFormer: no name begins with {_PREDICTOR}")
    converted = {}
    for key, value in state.items():
        if key.startswith((_DECODER + "pyramid.", _DECODER + "fuse_")):
            raise ValueError(f"{key!r} has no counterpart in the official MaskFormer, whose pixel decoder is another")
        name = _rename(key, _TO_OFFICIAL)
        converted[name] = value
        table = _BIAS_TABLE.match(name)
        if table:
            window = (math.isqrt(len(value)) + 1) // 2
            converted[table[1] + "relative_position_index"] = relative_position_index(window)
    for i in range(1, 10):
        if f"{_DECODER}align_{i}.offset.weight" in converted:
            for tensor in ("weight", "bias"):
                name = f"{_DECODER}layer_{i}.norm.{tensor}"
                if name in converted:
                    converted[f"{_DECODER}align_{i}.offset.norm.{tensor}"] = converted[name]
    if _CLASSES in state and any(not key.startswith("sem_seg_head.") for key in state):
        weight = torch.ones(len(state[_CLASSES]))
        weight[-1] = _NO_OBJECT_WEIGHT
        converted[_EMPTY_WEIGHT] = weight
    return converted


def _second_version(key: str) -> str:
    name = key.removeprefix("sem_seg_head.")
    if name == key or name.startswith(("predictor.", "pixel_decoder.")):
        return key
    return _DECODER + name


def _rename(key: str, rules) -> str:
    for pattern, beginning, shift in rules:
        found = pattern.match(key)
        if found:
            number = found.groupdict().get("i")
            return beginning.format(i=number and int(number) + shift) + key[found.end() :]
    return key
