"""Builders: strategies by name, per level, with clear errors; odd sizes; every parameter gets a gradient."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone

from fapn_d2.config.keys import STRATEGY_KEYS
from fapn_d2.necks.presets import PRESETS, Split
from fapn_d2.necks.registry import ALIGNS, CONTEXTS, FUSES, LATERALS, MERGES, OUTPUTS

from ..toys.pyramids import CHANNELS, toy_cfg, toy_maps, toy_pyramid

# What else must be set for a strategy that does not go with the FaPN preset.
COMPANIONS = {"topdown_only": {"ALIGN": "bilinear"}}
EVERY_STRATEGY = [
    (registry.key.rsplit(".")[-1], name)
    for registry in (CONTEXTS, LATERALS, ALIGNS, FUSES, MERGES, OUTPUTS)
    for name in registry.names()
]


def assert_every_parameter_gets_a_gradient(pyramid, maps):
    outputs = pyramid(maps)
    sum((value * torch.randn_like(value)).sum() for value in outputs.values()).backward()
    lacking = [name for name, p in pyramid.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not lacking
    return outputs


@pytest.mark.parametrize(("key", "name"), EVERY_STRATEGY)
def test_every_strategy_builds_and_trains(key, name):
    pyramid = toy_pyramid("build_resnet_fapn_backbone", norm="GN", **{key: name}, **COMPANIONS.get(name, {}))
    maps = toy_maps(size=(70, 101), batch=1)
    outputs = assert_every_parameter_gets_a_gradient(pyramid, maps)
    for level, (feature, value) in zip(("p2", "p3", "p4", "p5"), maps.items()):
        assert outputs[level].shape == (1, 64, *value.shape[-2:]), feature


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_builds_and_trains(preset):
    pyramid = toy_pyramid("build_pyramid_backbone", PRESET=preset)
    assert_every_parameter_gets_a_gradient(pyramid, toy_maps())


def test_presets_name_registered_strategies_only():
    registries = dict(zip(STRATEGY_KEYS, (CONTEXTS, LATERALS, ALIGNS, FUSES, MERGES, OUTPUTS)))
    for preset in PRESETS.values():
        assert set(preset) == set(STRATEGY_KEYS)
        for key, value in preset.items():
            for name in (value.below, value.top) if isinstance(value, Split) else filter(None, [value]):
                registries[key].get(name)


def test_one_changed_line_in_a_config_that_knows_nothing_of_this_project():
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fapn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    with torch.device("meta"):
        backbone = build_backbone(cfg)
    assert list(backbone.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]
    # facts of the official code: the neck of a ResNet-50 has 7,786,888 parameters
    neck = sum(p.numel() for name, p in backbone.named_parameters() if not name.startswith("bottom_up."))
    assert neck == 7_786_888


def test_strategies_differ_by_level():
    pyramid = toy_pyramid(
        "build_resnet_fapn_backbone",
        ALIGN=["deform", "nearest", "bilinear"],
        LATERAL=["conv1x1", "feature_selection", "squeeze_excite", "conv1x1_no_bias"],
    )
    assert hasattr(pyramid.fpn_align2, "deform_conv")
    assert pyramid.fpn_align3.mode == "nearest" and pyramid.fpn_align4.mode == "bilinear"
    assert pyramid.fpn_lateral2.bias is not None and pyramid.fpn_lateral5.bias is None
    assert pyramid.fpn_lateral3.skip and not pyramid.fpn_lateral4.skip


def test_merges_compute_what_they_say():
    maps = toy_maps(batch=1)
    identity = dict(OUTPUT="identity", ALIGN="nearest", TOP_BLOCK="none")
    alone = toy_pyramid("build_pyramid_backbone", MERGE="lateral_only", **identity)
    torch.testing.assert_close(alone(maps)["p2"], alone.fpn_lateral2(maps["res2"]), rtol=0, atol=0)
    assert not hasattr(alone, "fpn_align2") and not hasattr(alone, "fpn_fuse2")
    down = toy_pyramid("build_pyramid_backbone", MERGE="topdown_only", **identity)
    top = down.fpn_lateral5(maps["res5"])
    torch.testing.assert_close(down(maps)["p2"], top.repeat_interleave(8, -1).repeat_interleave(8, -2), rtol=0, atol=0)
    assert not hasattr(down, "fpn_lateral2")
    fused = toy_pyramid("build_resnet_fapn_backbone", MERGE="fuse_then_align", OUTPUT="identity")
    align, top = fused.fpn_align4, fused.fpn_lateral5(maps["res5"])
    joined = fused.fpn_lateral4(maps["res4"]) + torch.nn.functional.interpolate(top, size=(4, 6), mode="bilinear")
    torch.testing.assert_close(fused(maps)["p4"], align.align_fused(joined), rtol=0, atol=1e-6)
    assert not hasattr(align, "offset_reduce")


def test_concat_puts_the_aligned_map_first():
    pyramid = toy_pyramid("build_resnet_fapn_backbone", FUSE="concat")
    fuse = pyramid.fpn_fuse2
    with torch.no_grad():
        fuse.reduce.weight.zero_()
        fuse.reduce.weight[:, :64, 0, 0] = torch.eye(64)
    fine, aligned = torch.randn(2, 1, 64, 5, 7)
    torch.testing.assert_close(fuse(fine, aligned), aligned)


@pytest.mark.parametrize("name", ["build_pyramid_backbone", "build_resnet_fapn_backbone"])
@pytest.mark.parametrize("size", [(33, 65), (1, 1), (31, 200)])
def test_any_size(name, size):
    pyramid = toy_pyramid(name)
    maps = toy_maps(size=size, batch=1)
    outputs = pyramid(maps)
    for level, value in zip(("p2", "p3", "p4", "p5"), maps.values()):
        assert outputs[level].shape[-2:] == value.shape[-2:]
        assert outputs[level].isfinite().all()


def test_level_ratios_that_are_not_two():
    pyramid = toy_pyramid("build_resnet_fapn_backbone", BOTTOM_UP="build_uneven_maps")
    shapes = {name: shape.stride for name, shape in pyramid.output_shape().items()}
    assert shapes == {"p2": 4, "p3": 12, "p4": 12, "p5": 30, "p6": 60}
    sizes = {"res2": (30, 45), "res3": (10, 15), "res4": (10, 15), "res5": (4, 6)}
    maps = {name: torch.randn(1, CHANNELS[name], *size) for name, size in sizes.items()}
    outputs = assert_every_parameter_gets_a_gradient(pyramid, maps)
    assert [tuple(v.shape[-2:]) for v in outputs.values()] == [*sizes.values(), (2, 3)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    pyramid = toy_pyramid("build_resnet_fapn_backbone", norm="GN")
    maps = toy_maps(batch=1)
    expected = pyramid(maps)
    with torch.autocast("cpu", dtype=dtype):
        got = pyramid(maps)
        sum(value.float().square().mean() for value in got.values()).backward()
    assert all(p.grad.isfinite().all() for p in pyramid.parameters())
    for name, value in expected.items():
        assert (got[name].float() - value).norm() / value.norm() < 0.03, name  # bf16 has 8 bits, six layers deep


def test_extra_outputs_in_training_only():
    pyramid = toy_pyramid("build_resnet_fapn_backbone", EXTRA_OUTPUTS=["lateral", "merged", "bottom_up"])
    maps = toy_maps(batch=1)
    outputs = pyramid(maps)
    assert set(outputs) - set(pyramid.output_shape()) == {
        f"{kind}{i}" for kind in ("lateral", "merged", "res") for i in (2, 3, 4, 5)
    }
    assert outputs["res4"] is maps["res4"]
    torch.testing.assert_close(outputs["lateral3"], pyramid.fpn_lateral3(maps["res3"]))
    torch.testing.assert_close(outputs["p3"], pyramid.fpn_output3(outputs["merged3"]))
    torch.testing.assert_close(
        outputs["merged2"], outputs["lateral2"] + pyramid.fpn_align2(outputs["lateral2"], outputs["merged3"])
    )
    assert set(pyramid.eval()(maps)) == set(pyramid.output_shape())


ERRORS = [
    (dict(EXTRA_OUTPUTS=["laterals"]), "MODEL.NECK.EXTRA_OUTPUTS: unknown ['laterals']; allowed: lateral, merged"),
    (dict(ALIGN="deformed"), "MODEL.NECK.ALIGN: unknown strategy 'deformed'; nearest: deform; allowed: "),
    (dict(LATERAL="fsm"), "MODEL.NECK.LATERAL: unknown strategy 'fsm'; allowed: conv1x1, "),
    (dict(ALIGN=["deform"] * 4), "MODEL.NECK.ALIGN = ['deform', 'deform', 'deform', 'deform'] has 4 entries, but"),
    (dict(PRESET="fpn"), "leave PRESET empty, or name the builder 'build_pyramid_backbone'"),
    (dict(TOP_BLOCK="pool"), "MODEL.NECK.TOP_BLOCK: unknown value 'pool'; allowed: none, max_pool, p6p7"),
    (dict(TOP_BLOCK="p6p7", TOP_BLOCK_IN="res9"), "MODEL.NECK.TOP_BLOCK_IN: there is no map 'res9'; allowed: res2,"),
    (dict(BOTTOM_UP="build_nothing"), "MODEL.NECK.BOTTOM_UP: no backbone is registered as 'build_nothing'"),
    (dict(MERGE="fuse_then_align", ALIGN="nearest"), "aligns a fused map, which ALIGN 'nearest' cannot do"),
    (dict(MERGE="topdown_only"), "has no lateral map, which ALIGN 'deform' reads"),
    (dict(out_channels=60), "60 channels cannot be split into 8 offset groups"),
]


@pytest.mark.parametrize(("options", "message"), ERRORS)
def test_errors_name_the_key_and_what_is_allowed(options, message):
    with pytest.raises(ValueError) as error:
        toy_pyramid("build_resnet_fapn_backbone", **options)
    assert message in str(error.value)


def test_unknown_preset_and_features():
    with pytest.raises(ValueError, match=r"unknown preset 'fanp'; nearest: fapn; allowed: fpn, fapn"):
        toy_pyramid("build_pyramid_backbone", PRESET="fanp")
    cfg = toy_cfg("build_pyramid_backbone")
    cfg.MODEL.NECK.BOTTOM_UP = "build_resnet_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4"]
    with pytest.raises(ValueError, match=r"gives \['res3', 'res4'\], not \['res2', 'res5'\]"):
        build_backbone(cfg, ShapeSpec(channels=3))
    with pytest.raises(ValueError, match="order them from fine to coarse"):
        toy_pyramid("build_pyramid_backbone", features=("res4", "res3"))
