"""The FPN preset is Detectron2's FPN: names, counts, distribution of initial weights, outputs."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7

from fapn_d2 import add_fapn_config

from ..toys.pyramids import GivenMaps, toy_maps, toy_pyramid

TOP_BLOCKS = {
    "none": lambda: None,
    "max_pool": LastLevelMaxPool,
    "p6p7": lambda: LastLevelP6P7(64, 64),
    "p6p7 from p5": lambda: LastLevelP6P7(64, 64, "p5"),
}


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (256, 32)])
@pytest.mark.parametrize("norm", ["", "GN"])
@pytest.mark.parametrize("top", TOP_BLOCKS)
def test_strict_state_dict_and_bit_equal_output(top, norm, size):
    theirs = FPN(GivenMaps(), list(GivenMaps()._out_features), 64, norm=norm, top_block=TOP_BLOCKS[top]())
    ours = toy_pyramid(
        "build_pyramid_backbone", norm=norm, TOP_BLOCK=top.split()[0], TOP_BLOCK_IN="p5" if "from" in top else ""
    )
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    maps = toy_maps(size=size)
    expected, got = theirs(maps), ours(maps)
    assert list(got) == list(expected)
    for name in expected:
        assert torch.equal(got[name], expected[name]), name
    assert ours.output_shape() == theirs.output_shape()
    assert ours.size_divisibility == theirs.size_divisibility == 32
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_average_fusion_is_detectron2s():
    theirs = FPN(GivenMaps(), list(GivenMaps()._out_features), 64, fuse_type="avg")
    ours = toy_pyramid("build_pyramid_backbone", FUSE="avg", TOP_BLOCK="none")
    ours.load_state_dict(theirs.state_dict(), strict=True)
    maps = toy_maps()
    expected, got = theirs(maps), ours(maps)
    assert all(torch.equal(got[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("ours", "theirs", "features"),
    [
        ("build_pyramid_backbone", "build_resnet_fpn_backbone", ["res2", "res3", "res4", "res5"]),
        ("build_pyramid_backbone", "build_retinanet_resnet_fpn_backbone", ["res3", "res4", "res5"]),
    ],
)
def test_bit_equal_on_a_resnet(ours, theirs, features):
    cfg = get_cfg()
    add_fapn_config(cfg)
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = features
    cfg.MODEL.FPN.IN_FEATURES = features
    cfg.MODEL.NECK.TOP_BLOCK = "p6p7" if "retinanet" in theirs else None
    cfg.MODEL.BACKBONE.NAME = theirs
    their_backbone = build_backbone(cfg).eval()
    cfg.MODEL.BACKBONE.NAME = ours
    our_backbone = build_backbone(cfg).eval()
    our_backbone.load_state_dict(their_backbone.state_dict(), strict=True)
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        our_maps, their_maps = our_backbone(image), their_backbone(image)
    assert list(our_maps) == list(their_maps)
    for name in their_maps:
        assert torch.equal(our_maps[name], their_maps[name]), name


def test_initial_weights_have_detectron2s_distribution():
    """c2_xavier_fill is uniform with bound sqrt(3 / fan_in); biases are 0."""
    pyramid = toy_pyramid("build_pyramid_backbone")
    for name, fan_in in (("fpn_lateral2", 16), ("fpn_lateral5", 64), ("fpn_output2", 576), ("fpn_output5", 576)):
        conv = getattr(pyramid, name)
        bound = (3 / fan_in) ** 0.5
        assert 0.95 * bound < conv.weight.abs().max() <= bound, name
        assert not conv.bias.any(), name
