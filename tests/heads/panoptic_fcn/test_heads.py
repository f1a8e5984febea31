"""The heads against the official modules' arrays in float64, gradients included; initialisation; errors."""

import math

import pytest
import torch
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from torch.nn import functional as F

from fapn_d2.heads.panoptic_fcn.kernel_head import KernelEmbedding, mask_logits
from fapn_d2.heads.panoptic_fcn.tower import Tower
from fapn_d2.layers.coordinates import append_coordinates
from fapn_d2.layers.deform_norm_relu import DeformConvNormRelu

from .networks import LEVELS, Arrays, Heads, assert_near, ours


def load(heads, arrays):
    heads.double()
    wanted = ours(arrays.below("sd"))
    names = {name for name in wanted if not name.startswith("backbone.")}
    missing, unexpected = heads.load_state_dict({name: wanted[name] for name in names}, strict=False)
    assert not unexpected
    parts = {name.split(".")[0] for name in names}
    assert not [name for name in missing if name.split(".")[0] in parts]


def check_gradients(heads, arrays, more=()):
    parameters = dict(heads.named_parameters()) | dict(more)
    expected = {name.removeprefix("sd/"): value for name, value in arrays.below("grad64").items() if "sd/" in name}
    assert expected
    for name, value in ours(expected).items():
        assert_near(parameters[name].grad, value)


def test_feature_encoder(reference):
    arrays, heads = Arrays(reference / "panoptic_fcn" / "heads_encoder.npz"), Heads()
    load(heads, arrays)
    maps = {name: value.requires_grad_() for name, value in arrays.below("in").items()}
    summed = heads.semantic_fpn(maps)
    assert_near(summed, arrays["out64/semantic_fpn"])
    encoded = heads.feature_encoder(summed)
    assert_near(encoded, arrays["out64/encode_feat"])
    (encoded * arrays["cot/encode_feat"]).sum().backward()
    assert_near(maps["p3"].grad, arrays["grad64/in/p3"])
    assert_near(maps["p5"].grad, arrays["grad64/in/p5"])
    check_gradients(heads, arrays)


@pytest.mark.parametrize("backend", ["auto", "torchvision"])
def test_position_and_kernel_head(reference, backend):
    arrays, heads = Arrays(reference / "panoptic_fcn" / "heads_position_kernel.npz"), Heads()
    load(heads, arrays)
    top = LastLevelP6P7(64, 64, "p5").double()
    state = arrays.below("sd")
    top.load_state_dict({name: state[f"backbone.top_block.{name}"] for name in top.state_dict()})
    for layer in heads.position_head.tower:
        layer.deform_conv.backend = backend
    seen = []
    heads.position_head.tower[0].deform_conv.register_forward_pre_hook(lambda module, args: seen.append(args[1:]))

    maps = {name: value.requires_grad_() for name, value in arrays.below("in").items()}
    maps["p6"], maps["p7"] = top(maps["p5"])
    assert_near(maps["p6"], arrays["out64/p6"])
    assert_near(maps["p7"], arrays["out64/p7"])
    features = [maps[level] for level in LEVELS]
    centers, regions = heads.position_head(features)
    kernels = heads.kernel_head(features)
    assert_near(seen[0][0], arrays["out64/offset_1/p3"])
    assert_near(seen[0][1], arrays["out64/mask_1/p3"])
    total = 0
    for name, outputs in (("center", centers), ("region", regions), ("kernel", kernels)):
        for level, output in zip(LEVELS, outputs):
            assert_near(output, arrays[f"out64/{name}/{level}"])
            total = total + (output * arrays[f"cot/{name}/{level}"]).sum()
    assert_near(total, arrays["out64/loss"], atol=1e-8)
    total.backward()
    for name in ("p4", "p5"):
        assert_near(maps[name].grad, arrays[f"grad64/in/{name}"])
    check_gradients(heads, arrays, [(f"backbone.top_block.{name}", p) for name, p in top.named_parameters()])


def test_coordinates_go_down_and_across():
    got = append_coordinates(torch.zeros(2, 1, 3, 5))
    assert got.shape == (2, 3, 3, 5)
    assert got[1, 1, :, 2].tolist() == [-1, 0, 1]
    assert got[0, 2, 1].tolist() == [-1, -0.5, 0, 0.5, 1]
    assert append_coordinates(torch.zeros(1, 1, 1, 1)).flatten().tolist() == [0, -1, -1]


def test_initialisation():
    heads = Heads()
    for layer in (heads.position_head.center, heads.position_head.region, heads.kernel_head.kernel):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert heads.position_head.center.bias.sigmoid().tolist() == pytest.approx([0.1006] * 5, abs=1e-4)
    assert not heads.kernel_head.kernel.bias.any() and not KernelEmbedding(8, 4).embed.bias.any()
    deform = heads.position_head.tower[0]
    bound = math.sqrt(6 / (64 * 9))
    assert 0.99 * bound < deform.deform_conv.weight.abs().max() <= bound
    assert deform.offset_mask.weight.any() and deform.deform_conv.bias is None


def test_a_deformable_layer_without_offsets_is_a_convolution():
    layer = DeformConvNormRelu(4, 32, norm="GN")
    with torch.no_grad():
        layer.offset_mask.weight.zero_()
        layer.offset_mask.bias.zero_()
        layer.offset_mask.bias[18:] = 100  # masks of 1
    x = torch.randn(2, 4, 5, 7)
    expected = F.relu(layer.norm(F.conv2d(x, layer.deform_conv.weight, padding=1)))
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_masks_are_products_of_kernels_and_features():
    kernels, encoded = torch.randn(3, 4), torch.randn(4, 5, 6)
    expected = F.conv2d(encoded[None], kernels[:, :, None, None])[0]
    torch.testing.assert_close(mask_logits(kernels, encoded), expected)
    assert mask_logits(kernels[:0], encoded).shape == (0, 5, 6)
    assert KernelEmbedding(8, 4)(torch.zeros(0, 8)).shape == (0, 4)


def test_a_tower_has_layers():
    with pytest.raises(ValueError, match="NUM_CONVS = 0: a head of PanopticFCN needs at least one hidden layer"):
        Tower(8, 8, 0, norm="", coordinates=False, deformable=False)
