"""The contract between the pyramid and its parts: users' own strategies, hooks, displacements, shapes of extra maps."""

import copy

import pytest
import torch
from torch import nn

from fapn_d2.necks.parts import Align, Context, TopBlock
from fapn_d2.necks.registry import ALIGNS, CONTEXTS, MERGES
from fapn_d2.necks.topdown import EXTRA_OUTPUTS

from ..toys.pyramids import CHANNELS, STRIDES, toy_maps, toy_pyramid

EVERY_PRESET = ["fpn", "fapn", "augfpn", "sfnet"]


@pytest.fixture
def register(monkeypatch):
    """Registers strategies of a test only."""
    for one in (ALIGNS, CONTEXTS, MERGES):
        monkeypatch.setattr(one, "_strategies", dict(one._strategies))
    return lambda one, strategy: one.register(strategy)


class HalfAlign(Align):
    """As little as a user must write."""

    def forward(self, fine, coarse):
        return self.upsample(fine, coarse) / 2


def test_a_users_alignment(register):
    def half(level, neck):
        return HalfAlign()

    register(ALIGNS, half)
    pyramid = toy_pyramid("build_pyramid_backbone", ALIGN="half", OUTPUT="identity", TOP_BLOCK="none")
    maps = toy_maps(batch=1)
    top = pyramid.fpn_lateral5(maps["res5"])
    expected = pyramid.fpn_lateral4(maps["res4"]) + nn.functional.interpolate(top, scale_factor=2, mode="bilinear") / 2
    torch.testing.assert_close(pyramid(maps)["p4"], expected)
    assert pyramid.fpn_align4.displacement(maps["res4"], maps["res5"]) is None
    # Without being told otherwise the pyramid takes it to read the fine map, and not to align fused maps.
    with pytest.raises(ValueError, match="has no lateral map, which ALIGN 'half' reads"):
        toy_pyramid("build_pyramid_backbone", ALIGN="half", MERGE="topdown_only")
    with pytest.raises(ValueError, match="aligns a fused map, which ALIGN 'half' cannot do"):
        toy_pyramid("build_pyramid_backbone", ALIGN="half", MERGE="fuse_then_align")


def test_a_plain_module_as_context_is_added_to_the_lateral(register):
    def reduced(level, neck):
        return nn.Conv2d(level.in_channels, level.out_channels, kernel_size=1)

    def instead(level, neck):
        return Context(reduced(level, neck), replaces_lateral=True)

    register(CONTEXTS, reduced)
    register(CONTEXTS, instead)
    maps = toy_maps(batch=1)
    pyramid = toy_pyramid("build_pyramid_backbone", CONTEXT="reduced", OUTPUT="identity")
    expected = pyramid.fpn_lateral5(maps["res5"]) + pyramid.context(maps["res5"])
    torch.testing.assert_close(pyramid(maps)["p5"], expected)
    pyramid = toy_pyramid("build_pyramid_backbone", CONTEXT="instead", OUTPUT="identity")
    torch.testing.assert_close(pyramid(maps)["p5"], pyramid.context(maps["res5"]))
    assert not hasattr(pyramid, "fpn_lateral5")


def test_strategies_that_return_the_wrong_thing(register):
    def plain(level, neck):
        return nn.Upsample(scale_factor=2)

    def order():
        return lambda fine, coarse, align, fuse: fine

    register(ALIGNS, plain)
    register(MERGES, order)
    with pytest.raises(ValueError) as error:
        toy_pyramid("build_pyramid_backbone", ALIGN="plain")
    assert str(error.value) == (
        "MODEL.NECK.ALIGN: the strategy 'plain' returned a Upsample, but the pyramid needs Align; "
        "fapn_d2/necks/parts.py says how to write a strategy"
    )
    with pytest.raises(ValueError, match=r"MERGE: the strategy 'order' returned a function, but .* needs Merge"):
        toy_pyramid("build_pyramid_backbone", MERGE="order")
    with pytest.raises(ValueError, match=r"MODEL\.NECK\.MERGE has a strategy named 'order' already"):
        register(MERGES, order)


def test_a_part_knows_its_hooks():
    align = HalfAlign()
    assert not align.is_watched
    first = align.register_forward_hook(lambda *_: None)
    second = align.register_forward_pre_hook(lambda *_: None, prepend=True)
    assert align.is_watched and copy.deepcopy(align).is_watched
    first.remove(), first.remove()
    assert align.is_watched
    with second:
        pass
    assert not align.is_watched
    calls = []
    with align.register_forward_hook(lambda module, args, kwargs, out: calls.append(kwargs), with_kwargs=True):
        align(torch.zeros(1, 1, 2, 2), coarse=torch.zeros(1, 1, 1, 1))
    assert [list(kwargs) for kwargs in calls] == [["coarse"]]


@pytest.mark.parametrize("merge", ["align_then_fuse", "fuse_then_align"])
def test_hooks_see_the_deformable_alignment(merge):
    pyramid, maps = toy_pyramid("build_resnet_fapn_backbone", MERGE=merge).eval(), toy_maps()
    seen = []
    pyramid.fpn_align3.register_forward_hook(lambda module, inputs, output: seen.append((*inputs, output)))
    pyramid(maps)
    ((fine, coarse, output),) = seen
    assert output.shape == fine.shape == (2, 64, 8, 12)
    assert (fine is coarse) == (merge == "fuse_then_align")


def test_displacement_of_the_deformable_alignment():
    """All taps of all groups shifted alike: the mean is that shift, whatever masks and weights are."""
    align = toy_pyramid("build_resnet_fapn_backbone").fpn_align2
    nn.init.zeros_(align.offset_mask.weight)
    bias = torch.zeros(3, align.num_mask_channels)
    bias[:2] = torch.tensor([1.5, -0.25]).repeat(align.num_mask_channels).view(2, -1)
    align.offset_mask.bias.data.copy_(bias.flatten())
    moved = align.displacement(torch.randn(2, 64, 6, 8), torch.randn(2, 64, 3, 4))
    expected = torch.tensor([1.5, -0.25])[:, None, None].expand(2, 2, 6, 8)
    torch.testing.assert_close(moved, expected)


def test_displacement_of_the_flow_is_down_then_right_in_fine_pixels():
    align = toy_pyramid("build_resnet_sfnet_backbone", norm="").fpn_align2
    fine, coarse = torch.randn(2, 64, 6, 8), torch.randn(2, 64, 3, 4)
    right, down = align.predict_flow(fine, coarse).unbind(1)
    torch.testing.assert_close(align.displacement(fine, coarse), torch.stack([0.5 * down, 0.5 * right], dim=1))
    assert align.unit == 0.5


@pytest.mark.parametrize("kinds", [[], ["merged"], list(EXTRA_OUTPUTS)])
@pytest.mark.parametrize("preset", EVERY_PRESET)
def test_extra_output_shape_is_what_training_gives(preset, kinds):
    pyramid = toy_pyramid("build_pyramid_backbone", PRESET=preset, norm="BN", EXTRA_OUTPUTS=kinds)
    maps = toy_maps()
    outputs = pyramid(maps)
    levels = pyramid.output_shape()
    shapes = pyramid.extra_output_shape()
    assert set(outputs) == set(levels) | set(shapes) and not set(levels) & set(shapes)
    for name, shape in shapes.items():
        feature = f"res{name[-1]}"
        assert outputs[name].shape == (2, shape.channels, *maps[feature].shape[-2:])
        assert shape.stride == STRIDES[feature]
    assert levels.extra == shapes
    everything = pyramid.extra_output_shape(EXTRA_OUTPUTS)
    assert set(levels.withheld) == set(everything) - set(shapes)
    assert all(kind not in kinds for kind in levels.withheld.values())
    # SFNet's pyramid pooling takes the place of the coarsest lateral.
    assert ("lateral5" in everything) == (preset != "sfnet")
    assert everything["res3"].channels == CHANNELS["res3"] and everything["merged3"].channels == 64


@pytest.mark.parametrize("name", ["max_pool", "p6p7", "p6p7_context"])
def test_top_blocks_keep_their_contract(name):
    pyramid = toy_pyramid("build_pyramid_backbone", PRESET="augfpn", TOP_BLOCK=name)
    block = pyramid.top_block
    assert isinstance(block, TopBlock)
    source = {"p5": torch.randn(1, 64, 5, 7), "res5": torch.randn(1, CHANNELS["res5"], 5, 7)}[block.in_feature]
    for context in (None, torch.randn(1, 64, 3, 3)):
        maps = block(source, context)
        assert [tuple(m.shape) for m in maps] == [(1, 64, 3, 4), (1, 64, 2, 2)][: block.num_levels]
