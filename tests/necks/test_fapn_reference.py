"""The FaPN preset against arrays that the official neck produced."""

import numpy as np
import pytest
import torch

from fapn_d2.checkpoint.keys.fapn import fapn_key_to_official, fapn_key_to_ours

from ..toys.pyramids import toy_maps, toy_pyramid

CASES = {
    "small_gn_p6p7": dict(features=("res2", "res3", "res4", "res5"), norm="GN"),
    "small_retina": dict(features=("res3", "res4", "res5"), norm=""),
}


def load(reference, name):
    with np.load(reference / "fapn" / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def reference_pyramid(reference, case):
    pyramid = toy_pyramid("build_retinanet_resnet_fapn_backbone", **CASES[case])
    state = {fapn_key_to_ours(key): value for key, value in load(reference, f"{case}_state").items()}
    pyramid.load_state_dict(state, strict=True)
    return pyramid


def bottom_up_maps(arrays, dtype):
    return {key[3:]: value.to(dtype) for key, value in arrays.items() if key.startswith("in_")}


@pytest.mark.parametrize(("dtype", "prefix", "atol"), [(torch.float64, "out64_", 1e-9), (torch.float32, "out_", 5e-5)])
@pytest.mark.parametrize("case", CASES)
def test_outputs(reference, case, dtype, prefix, atol):
    arrays = load(reference, f"{case}_A")
    pyramid = reference_pyramid(reference, case).to(dtype)
    got = pyramid(bottom_up_maps(arrays, dtype))
    expected = {key[len(prefix) :]: value for key, value in arrays.items() if key.startswith(prefix)}
    assert list(got) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=0, atol=atol)


@pytest.mark.parametrize(("case", "levels"), [("small_gn_p6p7", (2, 3, 4)), ("small_retina", (3, 4))])
def test_offsets_and_masks(reference, case, levels):
    """What the deformable convolution of each level receives, in float32 as recorded."""
    arrays = load(reference, f"{case}_A")
    pyramid = reference_pyramid(reference, case)
    seen = {}
    for i in levels:
        convolution = getattr(pyramid, f"fpn_align{i}").deform_conv
        convolution.register_forward_pre_hook(lambda module, args, i=i: seen.update({i: args}))
    pyramid(bottom_up_maps(arrays, torch.float32))
    assert sorted(seen) == list(levels)
    for i, (_, offset, mask) in seen.items():
        torch.testing.assert_close(offset, arrays[f"offset_fan_align{i}"], rtol=0, atol=5e-5)
        torch.testing.assert_close(mask, arrays[f"mask_fan_align{i}"], rtol=0, atol=5e-5)


def test_gradients(reference):
    arrays = load(reference, "small_retina_A")
    expected = load(reference, "small_retina_grad64")
    pyramid = reference_pyramid(reference, "small_retina").double()
    maps = {name: value.requires_grad_() for name, value in bottom_up_maps(arrays, torch.float64).items()}
    loss = sum((value * expected[f"cot_{name}"]).sum() for name, value in pyramid(maps).items())
    torch.testing.assert_close(loss, expected["loss"], rtol=1e-12, atol=1e-9)
    loss.backward()
    for name, value in maps.items():
        torch.testing.assert_close(value.grad, expected[f"gin_{name}"], rtol=1e-10, atol=1e-9)
    parameters = {fapn_key_to_official(key): value for key, value in pyramid.named_parameters()}
    assert {f"gpar_{key}" for key in parameters} == {key for key in expected if key.startswith("gpar_")}
    for key, value in parameters.items():
        torch.testing.assert_close(value.grad, expected[f"gpar_{key}"], rtol=1e-10, atol=1e-9)


def test_renaming_is_a_bijection_and_keeps_prefixes():
    ours = list(toy_pyramid("build_retinanet_resnet_fapn_backbone", norm="GN").state_dict())
    official = [fapn_key_to_official(key) for key in ours]
    assert len(set(official)) == len(ours)
    assert [fapn_key_to_ours(key) for key in official] == ours
    assert fapn_key_to_ours("backbone.fan_align3.dcpack_L2.bias") == "backbone.fpn_align3.deform_conv.bias"
    assert fapn_key_to_ours("backbone.fan_align5.weight") == "backbone.fpn_lateral5.weight"
    assert fapn_key_to_ours("backbone.bottom_up.stem.conv1.weight") == "backbone.bottom_up.stem.conv1.weight"


def test_initial_weights():
    """As in the official code: offsets start at 0, masks at 0.5; the coarsest lateral has PyTorch's own one."""
    pyramid = toy_pyramid("build_resnet_fapn_backbone")
    for i in (2, 3, 4):
        align = getattr(pyramid, f"fpn_align{i}")
        assert not align.offset_mask.weight.any() and not align.offset_mask.bias.any()
        bound = (64 * 9) ** -0.5
        assert align.deform_conv.weight.abs().max() <= bound
        assert align.deform_conv.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
        assert not align.deform_conv.bias.any()
    # kaiming_uniform with a = sqrt(5) has the bound 1/sqrt(fan_in), c2_xavier_fill sqrt(3)/sqrt(fan_in)
    assert pyramid.fpn_lateral5.weight.abs().max() <= 64**-0.5
    assert pyramid.fpn_lateral4.selection.weight.abs().max() > 48**-0.5
    start = pyramid(toy_maps())
    plain = pyramid.fpn_align4.deform_conv
    assert start["p4"].isfinite().all() and plain.weight.requires_grad
