"""The AugFPN preset against arrays that the official two-stage neck produced; one-stage blocks by definition."""

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone
from torch.nn import functional as F

from fapn_d2.checkpoint.keys.augfpn import augfpn_state_to_official, augfpn_state_to_ours

from ..toys.pyramids import GivenMaps, toy_cfg, toy_maps, toy_pyramid

SMALL = {"res2": 8, "res3": 16, "res4": 32, "res5": 64}


@BACKBONE_REGISTRY.register()
def build_augfpn_reference_maps(cfg, input_shape):
    return GivenMaps(SMALL)


@pytest.fixture
def arrays(reference):
    with np.load(reference / "augfpn" / "highfpn_small_grad_224x352.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def part(arrays, prefix, dtype=None):
    return {key.removeprefix(prefix): value.to(dtype) for key, value in arrays.items() if key.startswith(prefix)}


def reference_pyramid(arrays, dtype):
    cfg = toy_cfg("build_resnet_augfpn_backbone", out_channels=16)
    cfg.MODEL.NECK.BOTTOM_UP = "build_augfpn_reference_maps"
    pyramid = build_backbone(cfg, ShapeSpec(channels=3))
    pyramid.load_state_dict(augfpn_state_to_ours(part(arrays, "sd/")), strict=True)
    return pyramid.to(dtype)


def test_loss_and_gradients_are_the_official_ones(arrays):
    """The loss is sum(map * cotangent) over P2..P6 and M2..M5, so its gradients check every output."""
    pyramid = reference_pyramid(arrays, torch.float64)
    maps = {f"res{i}": arrays[f"in/C{i}"].double().requires_grad_() for i in (2, 3, 4, 5)}
    outputs = pyramid(maps)
    loss = sum(
        (outputs[name.replace("P", "p").replace("M", "lateral")] * cotangent).sum()
        for name, cotangent in part(arrays, "cot/", torch.float64).items()
    )
    expected = arrays["out64/loss"]
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-9)
    loss.backward()
    gradients = part(arrays, "grad64/")
    for i in (2, 3, 4, 5):
        torch.testing.assert_close(maps[f"res{i}"].grad, gradients.pop(f"C{i}"), rtol=1e-9, atol=1e-9)
    got = augfpn_state_to_official({name: p.grad for name, p in pyramid.named_parameters()})
    assert set(got) == set(gradients)
    for name, value in gradients.items():
        torch.testing.assert_close(got[name], value, rtol=1e-9, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")


def test_names_convert_both_ways(arrays):
    state = part(arrays, "sd/")
    ours = augfpn_state_to_ours(state)
    back = augfpn_state_to_official(ours)
    assert set(back) == set(state)
    assert all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("context", ["residual_augmentation", "none"])
def test_one_stage_extension(context, relu):
    block = "p6p7_relu_context" if relu else "p6p7_context"
    source = "p5" if relu else "res5"
    pyramid = toy_pyramid(
        "build_retinanet_resnet_augfpn_backbone",
        features=("res3", "res4", "res5"),
        TOP_BLOCK=block if relu else None,
        TOP_BLOCK_IN=source,
        CONTEXT=context,
    )
    maps = toy_maps(("res3", "res4", "res5"), size=(200, 333), batch=2)
    out = pyramid(maps)
    p6 = pyramid.top_block.p6(maps["res5"] if source == "res5" else out["p5"])
    if context != "none":
        p6 = p6 + F.adaptive_avg_pool2d(pyramid.context(maps["res5"]), 1)
    torch.testing.assert_close(out["p6"], p6)
    torch.testing.assert_close(out["p7"], pyramid.top_block.p7(p6.relu() if relu else p6))
    assert [k for k in out if k.startswith("lateral")] == ["lateral5", "lateral4", "lateral3"]
    sum(v.square().sum() for v in out.values()).backward()
    assert all(p.grad is not None for p in pyramid.parameters())
    channels = pyramid.top_block.p6.weight.shape[1]
    bound = (6 / (9 * (channels + 64))) ** 0.5
    assert 0.95 * bound < pyramid.top_block.p6.weight.abs().max() <= bound


def test_one_stage_state_converts_both_ways():
    pyramid = toy_pyramid("build_retinanet_resnet_augfpn_backbone", features=("res3", "res4", "res5"))
    official = augfpn_state_to_official(pyramid.state_dict())
    assert official["fpn_convs.3.conv.weight"].shape == (64, 64, 3, 3)
    assert {"lateral_convs.0.conv.bias", "high_lateral_conv.2.weight", "fpn_convs.4.conv.bias"} <= set(official)
    pyramid.load_state_dict(augfpn_state_to_ours(official), strict=True)


def test_lateral_initialisation_is_mmdetections():
    pyramid = toy_pyramid("build_resnet_augfpn_backbone")
    for name, fan_in, fan_out in (("fpn_lateral2", 16, 64), ("fpn_lateral5", 64, 64), ("fpn_output3", 576, 576)):
        conv = getattr(pyramid, name)
        bound = (6 / (fan_in + fan_out)) ** 0.5
        assert 0.9 * bound < conv.weight.abs().max() <= bound, name
        assert not conv.bias.any()


@pytest.mark.parametrize("align", ["bilinear", "deform", "flow"])
def test_combines_with_other_alignments(align):
    pyramid = toy_pyramid("build_resnet_augfpn_backbone", ALIGN=align)
    out = pyramid(toy_maps(size=(70, 101), batch=1))
    sum(v.square().sum() for v in out.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in pyramid.parameters())


def test_foreign_names_are_refused():
    with pytest.raises(ValueError, match=r"'neck\.bn\.weight' is not a parameter of the official AugFPN detectors"):
        augfpn_state_to_ours({"neck.bn.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"'backbone\.other\.weight' has no counterpart"):
        augfpn_state_to_official({"backbone.other.weight": torch.zeros(1)})
