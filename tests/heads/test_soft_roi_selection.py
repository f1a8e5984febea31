"""Soft RoI Selection against the official arrays and against ROIPooler, level by level."""

import numpy as np
import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes

from fapn_d2.heads.soft_roi_selection import SoftRoISelection
from fapn_d2.layers.spatial_fusion import AdaptiveSpatialFusion, build_fusion

OPTIONS = dict(output_size=3, sampling_ratio=2, pooler_type="ROIAlignV2")
STRIDES = (4, 8, 16, 32)


def selection(fusion, channels=6):
    fusion = build_fusion(fusion, channels, 4, key="K")
    return SoftRoISelection(ROIPooler(scales=[1 / s for s in STRIDES], **OPTIONS), fusion)


def maps_and_boxes(channels=6):
    maps = [torch.randn(2, channels, 128 // s, 160 // s) for s in STRIDES]
    first = torch.tensor([[3.0, 5.0, 60.0, 90.0], [10.0, 10.0, 30.0, 25.0], [0.0, 0.0, 159.0, 127.0]])
    return maps, [Boxes(first), Boxes(torch.tensor([[20.0, 40.0, 25.0, 44.0]]))]


@pytest.mark.parametrize(("dtype", "prefix", "atol"), [(torch.float64, "out64", 1e-9), (torch.float32, "out32", 5e-5)])
def test_official_arrays(reference, dtype, prefix, atol):
    with np.load(reference / "augfpn" / "srs_small_7x7_c8.npz") as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files}
    fusion = AdaptiveSpatialFusion(8, 4)
    for name, official in (("reduce", "0"), ("gate", "2")):
        state = {kind: arrays[f"sd/spatial_attention_conv.{official}.{kind}"] for kind in ("weight", "bias")}
        fusion.get_submodule(name).load_state_dict(state)
    fusion.to(dtype)
    features = [arrays[f"in/level{i}"].to(dtype) for i in range(4)]
    torch.testing.assert_close(fusion(features), arrays[f"{prefix}/roi_feats"], rtol=0, atol=atol)
    torch.testing.assert_close(fusion.weights(features), arrays[f"{prefix}/asf_logits"].sigmoid(), rtol=0, atol=atol)


@pytest.mark.parametrize("fusion", ["sum", "max", "acf", "asf"])
def test_pools_every_region_from_every_level(fusion):
    module = selection(fusion)
    maps, boxes = maps_and_boxes()
    alone = [ROIPooler(scales=[1 / s], **OPTIONS)([m], boxes) for s, m in zip(STRIDES, maps)]
    torch.testing.assert_close(module(maps, boxes), module.fusion(alone), rtol=0, atol=0)
    assert module(maps, boxes).shape == (4, 6, 3, 3)
    assert module.output_size == (3, 3) and len(module.level_poolers) == 4


def test_assigned_levels_are_those_of_the_rule():
    """floor(4 + log2(sqrt(area) / 224)) clamped to 2..5, counted from 0 for P2."""
    sides = torch.tensor([10.0, 111.9, 112.1, 223.9, 224.1, 448.1, 5000.0])
    boxes = torch.stack([torch.zeros(7), torch.zeros(7), sides, sides], dim=1)
    assert selection("sum").assigned_levels([Boxes(boxes)]).tolist() == [0, 0, 1, 1, 2, 3, 3]


@pytest.mark.parametrize("fusion", ["acf", "asf"])
@pytest.mark.parametrize("images", [0, 2])
def test_no_regions(fusion, images):
    module = selection(fusion)
    maps = [m[:images].requires_grad_() for m in maps_and_boxes()[0]]
    out = module(maps, [Boxes(torch.zeros(0, 4))] * images)
    assert out.shape == (0, 6, 3, 3)
    out.sum().backward()
    assert all(p.grad is not None for p in module.parameters())


def test_what_does_not_fit_is_refused():
    maps, boxes = maps_and_boxes()
    with pytest.raises(ValueError, match=r"over 4 levels got 3 maps of 2 images and the boxes of 2; check MODEL\.ROI_"):
        selection("sum")(maps[:3], boxes)
    with pytest.raises(ValueError, match="got 4 maps of 2 images and the boxes of 1"):
        selection("sum")(maps, boxes[:1])
