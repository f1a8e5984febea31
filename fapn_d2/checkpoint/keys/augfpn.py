"""State dicts of the official AugFPN detectors (mmdetection 0.6) and ours, both ways.

================================================  ==============================================
official                                          fapn_d2
================================================  ==============================================
``neck.lateral_convs.{i}.conv``                   ``backbone.fpn_lateral{s}``, s = i + first stage
``neck.fpn_convs.{i}.conv``                       ``backbone.fpn_output{s}``; above: ``top_block.p6``, ``p7``
``neck.high_lateral_conv.{j}``                    ``backbone.context.reduce.{j}``
``neck.high_lateral_conv_attention.{0,2}``        ``backbone.context.fusion.{reduce,gate}``
``{bbox,mask}_roi_extractor.spatial_attention_``  ``roi_heads.{box,mask}_pooler.fusion.{reduce,gate}``
``conv.{0,2}``
``bbox_head``, ``mask_head``                      ``roi_heads.box_head``, ``.box_predictor``, ``.mask_head``
``auxiliary_bbox_head``, ``auxiliary_mask_head``  the same below ``roi_heads.consistent_supervision``
``rpn_head``                                      ``proposal_generator.rpn_head``
``backbone`` (torchvision's names)                ``backbone.bottom_up``
================================================  ==============================================

The background class is the first one in the official code and the last one in Detectron2. The official code predicts
box deltas and masks of the background and never uses them: they are dropped, and zero in the other direction. Batch
counters are dropped. Dense heads of one-stage detectors are not converted. A neck alone, without the prefix ``neck.``,
becomes a pyramid without the prefix ``backbone.``.
"""

import re
from collections.abc import Mapping

import torch

_PARTS = {"0": "reduce", "2": "gate"}
_STEM = {"conv1": "stem.conv1", "bn1": "stem.conv1.norm"}
_BLOCK = {"downsample.0": "shortcut", "downsample.1": "shortcut.norm"}
_BLOCK |= {f"bn{k}": f"conv{k}.norm" for k in (1, 2, 3)} | {f"conv{k}": f"conv{k}" for k in (1, 2, 3)}
_RPN = {"rpn_conv": "conv", "rpn_cls": "objectness_logits", "rpn_reg": "anchor_deltas"}
_BOX = {
    "shared_fcs.0": "box_head.fc1",
    "shared_fcs.1": "box_head.fc2",
    "fc_cls": "box_predictor.cls_score",
    "fc_reg": "box_predictor.bbox_pred",
}
_MASK = {f"convs.{i}.conv": f"mask_head.mask_fcn{i + 1}" for i in range(4)}
_MASK |= {"upsample": "mask_head.deconv", "conv_logits": "mask_head.predictor"}


def augfpn_state_to_ours(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Official names and layouts -> ours.

    Raises:
        ValueError: a name does not exist in the official detectors.
    """
    laterals = sum("lateral_convs." in key and key.endswith(".conv.weight") for key in state)
    table = _table(laterals, two_stage=any(key.startswith("rpn_head.") for key in state))
    converted = {}
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        name, _, kind = key.rpartition(".")
        if name not in table:
            raise ValueError(f"{key!r} is not a parameter of the official AugFPN detectors")
        converted[f"{table[name]}.{kind}"] = _background_last(name, value)
    return converted


def augfpn_state_to_official(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our names and layouts -> official ones; the inverse of :func:`augfpn_state_to_ours`.

    Raises:
        ValueError: a name has no counterpart in the official detectors.
    """
    laterals = sum(bool(re.search(r"(^|\.)fpn_lateral\d\.weight$", key)) for key in state)
    table = _table(laterals, two_stage=any(key.startswith("proposal_generator.") for key in state))
    inverse = {ours: official for official, ours in table.items()}
    converted = {}
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        name, _, kind = key.rpartition(".")
        if name not in inverse:
            raise ValueError(f"{key!r} has no counterpart in the official AugFPN detectors")
        converted[f"{inverse[name]}.{kind}"] = _background_first(inverse[name], value)
    return converted


def _table(num_laterals: int, *, two_stage: bool) -> dict[str, str]:
    """Official module -> our module, for a neck with ``num_laterals`` levels (4 from C2, 3 from C3)."""
    first = 6 - num_laterals
    neck = {f"lateral_convs.{i}.conv": f"fpn_lateral{first + i}" for i in range(num_laterals)}
    neck |= {f"fpn_convs.{i}.conv": f"fpn_output{first + i}" for i in range(num_laterals)}
    neck |= {f"fpn_convs.{num_laterals + i}.conv": f"top_block.p{6 + i}" for i in range(2)}
    neck |= {f"high_lateral_conv.{j}": f"context.reduce.{j}" for j in range(9)}
    neck |= {f"high_lateral_conv_attention.{i}": f"context.fusion.{part}" for i, part in _PARTS.items()}
    table = neck | {f"neck.{official}": f"backbone.{ours}" for official, ours in neck.items()}
    table |= {f"backbone.{official}": f"backbone.bottom_up.{ours}" for official, ours in _STEM.items()}
    for stage in (1, 2, 3, 4):
        for block in range(40):  # ResNet-152 has 36 in its third stage
            for official, ours in _BLOCK.items():
                official = f"backbone.layer{stage}.{block}.{official}"
                table[official] = f"backbone.bottom_up.res{stage + 1}.{block}.{ours}"
    table |= {f"rpn_head.{official}": f"proposal_generator.rpn_head.{ours}" for official, ours in _RPN.items()}
    auxiliary = "roi_heads.consistent_supervision" if two_stage else "consistent_supervision"
    for head, names in (("bbox_head", _BOX), ("mask_head", _MASK)):
        table |= {f"{head}.{official}": f"roi_heads.{ours}" for official, ours in names.items()}
        table |= {f"auxiliary_{head}.{official}": f"{auxiliary}.{ours}" for official, ours in names.items()}
    for official, ours in (("bbox", "box"), ("mask", "mask")):
        for i, part in _PARTS.items():
            table[f"{official}_roi_extractor.spatial_attention_conv.{i}"] = f"roi_heads.{ours}_pooler.fusion.{part}"
    return table


def _background_last(official_name: str, value: torch.Tensor) -> torch.Tensor:
    if official_name.endswith("fc_cls"):
        return torch.cat([value[1:], value[:1]])
    return value[_background_rows(official_name) :]


def _background_first(official_name: str, value: torch.Tensor) -> torch.Tensor:
    if official_name.endswith("fc_cls"):
        return torch.cat([value[-1:], value[:-1]])
    rows = _background_rows(official_name)
    return torch.cat([value.new_zeros(rows, *value.shape[1:]), value]) if rows else value


def _background_rows(official_name: str) -> int:
    """The number of leading rows for the background: four box deltas, or one mask."""
    return 4 if official_name.endswith("fc_reg") else 1 if official_name.endswith("conv_logits") else 0
