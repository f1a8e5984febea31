"""The papers as settings of one pyramid.

A value is a strategy for all levels, or a ``Split`` with another strategy for the coarsest level. A key that the config
sets under MODEL.NECK takes precedence over the preset.
"""

from dataclasses import dataclass

from ..config.keys import STRATEGY_KEYS
from ..messages import nearest


@dataclass(frozen=True)
class Split:
    """``below`` on all levels but the coarsest, ``top`` on the coarsest."""

    below: str
    top: str


#: FUSE is left to Detectron2's MODEL.FPN.FUSE_TYPE where a paper has no fusion of its own.
PRESETS: dict[str, dict[str, str | Split | None]] = {
    # Lin et al., CVPR 2017, Section 3; Panoptic FPN (Kirillov et al., CVPR 2019) has the same neck.
    "fpn": {
        "CONTEXT": "none",
        "LATERAL": "conv1x1",
        "ALIGN": "nearest",
        "FUSE": None,
        "MERGE": "align_then_fuse",
        "OUTPUT": "conv3x3",
    },
    # Huang et al., ICCV 2021. As in the official code, the coarsest level has no selection and no output convolution.
    "fapn": {
        "CONTEXT": "none",
        "LATERAL": Split("feature_selection", top="conv1x1_default_init"),
        "ALIGN": "deform",
        "FUSE": None,
        "MERGE": "align_then_fuse",
        "OUTPUT": Split("conv3x3", top="identity"),
    },
    # Guo et al., CVPR 2020, as in the official code. Its 3x3 convolutions have as many output channels as input
    # channels, so Detectron2's and mmdetection's initialisations are the same for them.
    "augfpn": {
        "CONTEXT": "residual_augmentation",
        "LATERAL": "conv1x1_xavier",
        "ALIGN": "nearest",
        "FUSE": None,
        "MERGE": "align_then_fuse",
        "OUTPUT": "conv3x3",
    },
    # Li et al., ECCV 2020. As in the official code, pyramid pooling is the coarsest level and has no output
    # convolution.
    "sfnet": {
        "CONTEXT": "ppm",
        "LATERAL": "conv1x1_norm_relu",
        "ALIGN": "flow",
        "FUSE": None,
        "MERGE": "align_then_fuse",
        "OUTPUT": Split("conv3x3_norm_relu", top="identity"),
    },
}


def resolve_strategies(cfg, neck, *, preset: str, num_levels: int) -> dict[str, list[str]]:
    """Names of the strategies of every level, finest first.

    Args:
        cfg: Detectron2's config; MODEL.FPN.FUSE_TYPE is read.
        neck: the node MODEL.NECK.
        preset: name in PRESETS, for keys that ``neck`` leaves at None.
        num_levels: levels that come from bottom-up maps.

    Returns:
        ``{key: names}`` for the keys of STRATEGY_KEYS: one name for CONTEXT, ``num_levels`` for LATERAL and OUTPUT,
        ``num_levels - 1`` for ALIGN, FUSE and MERGE, which join two levels.

    Raises:
        ValueError: unknown preset, or a list of the wrong length.
    """
    if preset not in PRESETS:
        hint = nearest(preset, PRESETS, limit=1)
        raise ValueError(f"MODEL.NECK.PRESET: unknown preset {preset!r}{hint}; allowed: {', '.join(PRESETS)}")
    defaults = dict(PRESETS[preset])
    defaults["FUSE"] = defaults["FUSE"] or cfg.MODEL.FPN.FUSE_TYPE
    lengths = dict.fromkeys(STRATEGY_KEYS, num_levels - 1) | {
        "CONTEXT": 1,
        "LATERAL": num_levels,
        "OUTPUT": num_levels,
    }
    return {key: _expand(key, neck[key] or defaults[key], lengths[key]) for key in STRATEGY_KEYS}


def _expand(key: str, value, length: int) -> list[str]:
    if isinstance(value, Split):
        return [value.below] * (length - 1) + [value.top]
    if isinstance(value, str):
        return [value] * length
    if len(value) != length:
        raise ValueError(
            f"MODEL.NECK.{key} = {list(value)} has {len(value)} entries, but this pyramid needs {length}, finest level "
            "first (ALIGN, FUSE and MERGE join two levels, so they have one less than MODEL.FPN.IN_FEATURES); "
            "a single name stands for all"
        )
    return list(value)
