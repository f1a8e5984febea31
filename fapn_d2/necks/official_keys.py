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

# In order: the first that matches is applied, so longer names stand before their prefixes.
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


def fapn_key_to_ours(key: str) -> str:
    """Official FaPN parameter name -> ours; names that are not the neck's stay as they are."""
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
