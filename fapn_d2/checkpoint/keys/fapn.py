"""Names of the parameters of the official FaPN neck (class ``FAN``) and ours, both ways.

==============================================  =====================================
official                                        fapn_d2
==============================================  =====================================
``fan_align{i}.lateral_conv.conv_atten.*``      ``fpn_lateral{i}.importance.*``
``fan_align{i}.lateral_conv.conv.*``            ``fpn_lateral{i}.selection.*``
``fan_align{i}.offset.*``                       ``fpn_align{i}.offset_reduce.*``
``fan_align{i}.dcpack_L2.conv_offset_mask.*``   ``fpn_align{i}.offset_mask.*``
``fan_align{i}.dcpack_L2.*``                    ``fpn_align{i}.deform_conv.*``
``fan_align{i}.*`` of the coarsest level        ``fpn_lateral{i}.*``
``fpn_output{i}.*``, ``top_block.*``            the same
==============================================  =====================================

Shapes and values are the same. A prefix such as ``backbone.`` stays as it is.
"""

import re
from collections import defaultdict
from collections.abc import Mapping

from torch import Tensor

from ...messages import some

# The first matching rule is applied, so longer names come before their prefixes.
_TO_OURS = (
    (r"fan_align(\d+)\.lateral_conv\.conv_atten\.", r"fpn_lateral\1.importance."),
    (r"fan_align(\d+)\.lateral_conv\.conv\.", r"fpn_lateral\1.selection."),
    (r"fan_align(\d+)\.offset\.", r"fpn_align\1.offset_reduce."),
    (r"fan_align(\d+)\.dcpack_L2\.conv_offset_mask\.", r"fpn_align\1.offset_mask."),
    (r"fan_align(\d+)\.dcpack_L2\.", r"fpn_align\1.deform_conv."),
    (r"fan_align(\d+)\.", r"fpn_lateral\1."),
)
_TO_OFFICIAL = (
    (r"fpn_lateral(\d+)\.importance\.", r"fan_align\1.lateral_conv.conv_atten."),
    (r"fpn_lateral(\d+)\.selection\.", r"fan_align\1.lateral_conv.conv."),
    (r"fpn_align(\d+)\.offset_reduce\.", r"fan_align\1.offset."),
    (r"fpn_align(\d+)\.offset_mask\.", r"fan_align\1.dcpack_L2.conv_offset_mask."),
    (r"fpn_align(\d+)\.deform_conv\.", r"fan_align\1.dcpack_L2."),
    (r"fpn_lateral(\d+)\.", r"fan_align\1."),
)
# What a FaPN has at each level below the coarsest one and at that, whether it has norms or not.
_BELOW = {
    "lateral.importance.weight",
    "lateral.selection.weight",
    "align.offset_reduce.weight",
    "align.offset_mask.weight",
    "align.offset_mask.bias",
    "align.deform_conv.weight",
    "align.deform_conv.bias",
    "output.weight",
}
_TOP = {"lateral.weight"}
# and where no norm follows
_BELOW_BIAS = {"output.bias"}
_TOP_BIAS = {"lateral.bias"}
_OUR_NECK = re.compile(r"(?:^|\.)fpn_(lateral|align|fuse|output)(\d+)\.(.*)$")


def fapn_state_to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official names -> ours, for a neck alone or for a whole network. Names outside of the neck do not change.

    Raises:
        ValueError: the state dict has no official FaPN neck, or the neck lacks parameters, or it has other ones.
    """
    if not any(re.search(r"(^|\.)fan_align\d+\.", key) for key in state):
        raise ValueError(f"there is no official FaPN neck (fan_align5.weight, ...) in {some(state)}")
    converted = {fapn_key_to_ours(key): value for key, value in state.items()}
    _check_neck(converted)
    return converted


def fapn_state_to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names -> official ones; the inverse of :func:`fapn_state_to_ours`.

    Raises:
        ValueError: the state dict does not have our FaPN preset. The official code has no names for other pyramids.
    """
    _check_neck(state)
    return {fapn_key_to_official(key): value for key, value in state.items()}


def _check_neck(state: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless ``state`` has all parameters of the FaPN preset, under our names, and no others."""
    parts: dict[int, set[str]] = defaultdict(set)
    for key in state:
        match = _OUR_NECK.search(key)
        if match:
            part, stage, rest = match.groups()
            parts[int(stage)].add(f"{part}.{rest}")
    if not parts:
        raise ValueError(f"there is no pyramid (fpn_lateral5.weight, ...) in {some(state)}")
    for stage, names in sorted(parts.items()):
        has = {name for name in names if ".norm." not in name}
        wanted, bias = (_TOP, _TOP_BIAS) if stage == max(parts) else (_BELOW, _BELOW_BIAS)
        if has == names:
            wanted = wanted | bias
        differing = {"lacks": wanted - has, "has besides": has - wanted}
        problems = [f"{verb} {', '.join(sorted(names))}" for verb, names in differing.items() if names]
        if problems:
            found = f"its level {stage} {' and '.join(problems)}"
            raise ValueError(f"the neck differs from the official FaPN: {found}")


def fapn_key_to_ours(key: str) -> str:
    """Official FaPN parameter name -> ours. Names outside of the neck do not change."""
    return _rename(key, _TO_OURS)


def fapn_key_to_official(key: str) -> str:
    """Our FaPN parameter name -> the official one."""
    return _rename(key, _TO_OFFICIAL)


def _rename(key: str, rules) -> str:
    for pattern, replacement in rules:
        renamed, count = re.subn(r"(^|\.)" + pattern, r"\g<1>" + replacement.replace(r"\1", r"\g<2>"), key)
        if count:
            return renamed
    return key
