"""ALIGN strategies against hand numbers."""

import pytest
import torch
from detectron2.modeling import build_backbone

from fapn_d2.layers.deform_conv.module import ModulatedDeformConv2d
from fapn_d2.necks.strategies.align import Deconvolution

from ..toys.pyramids import toy_cfg, toy_maps, toy_pyramid


def bilinear_deconvolution():
    """One channel; the kernel of bilinear upsampling by two."""
    layer = Deconvolution(1)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
    with torch.no_grad():
        layer.deconv.weight.copy_((taps[:, None] * taps)[None, None])
        layer.deconv.bias.zero_()
    return layer


def test_deconvolution_doubles_the_size():
    coarse = torch.tensor([[0.0, 4.0, 8.0]]).expand(3, 3)[None, None]
    with torch.no_grad():
        got = bilinear_deconvolution()(torch.zeros(1, 1, 6, 6), coarse)[0, 0]
    # inside the border, where no tap falls outside the map: weights 3/4 and 1/4 of the two nearest columns
    torch.testing.assert_close(got[2, 1:5], torch.tensor([1.0, 3.0, 5.0, 7.0]))
    # on it, a quarter of the kernel's weight is lost in each direction
    torch.testing.assert_close(got[0, 1:5], 0.75 * torch.tensor([1.0, 3.0, 5.0, 7.0]))


def test_deconvolution_meets_odd_sizes():
    layer = bilinear_deconvolution()
    coarse = torch.ones(1, 1, 3, 4)
    with torch.no_grad():
        got = layer(torch.zeros(1, 1, 5, 7), coarse)
        doubled = layer(torch.zeros(1, 1, 6, 8), coarse)
    assert got.shape == (1, 1, 5, 7)
    expected = torch.nn.functional.interpolate(doubled, size=(5, 7), mode="bilinear", align_corners=False)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_deconvolution_in_a_pyramid_sees_the_coarse_map_only():
    pyramid = toy_pyramid("build_resnet_fapn_backbone", ALIGN="deconv", OUTPUT="identity")
    maps = toy_maps(batch=1)
    top = pyramid.fpn_lateral5(maps["res5"])
    expected = pyramid.fpn_lateral4(maps["res4"]) + pyramid.fpn_align4.deconv(top)
    torch.testing.assert_close(pyramid(maps)["p4"], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("key", "chosen"), [("", None), ("torchvision", "torchvision")])
def test_the_backend_of_the_deformable_convolution_is_a_key(key, chosen):
    cfg = toy_cfg("build_resnet_fapn_backbone")
    cfg.MODEL.NECK.DEFORM.BACKEND = key
    layers = [m for m in build_backbone(cfg).modules() if isinstance(m, ModulatedDeformConv2d)]
    assert layers and {layer.backend for layer in layers} == {chosen}
    cfg.MODEL.NECK.DEFORM.BACKEND = "mmcv"
    with pytest.raises(
        ValueError, match=r"MODEL\.NECK\.DEFORM\.BACKEND: unknown backend 'mmcv' .* choose one of auto,"
    ):
        build_backbone(cfg)
