"""Samples and a matrix product against the operator that they stand for."""

import pytest
import torch

from fapn_d2.layers.deform_conv.module import ModulatedDeformConv2d
from fapn_d2.layers.deform_conv.sampled import SampledDeformConv2d, sample_deform_convs
from fapn_d2.layers.feature_align import FeatureAlign


@torch.no_grad()
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups", "size", "masked", "bias"),
    [
        (3, 1, 1, 1, 4, (9, 7), True, True),
        ((3, 2), (2, 1), (1, 0), (1, 2), 2, (11, 8), True, False),
        (3, 1, 1, 1, 1, (6, 5), False, True),
        (3, 1, 1, 1, 2, (1, 1), True, True),
    ],
)
def test_equal_to_the_operator(kernel, stride, padding, dilation, groups, size, masked, bias):
    keys = dict(stride=stride, padding=padding, dilation=dilation, offset_groups=groups, bias=bias)
    original = ModulatedDeformConv2d(8, 6, kernel, **keys).double()
    if bias:
        torch.nn.init.normal_(original.bias)
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    plain = torch.nn.Conv2d(8, 6, kernel, stride=stride, padding=padding, dilation=dilation).double()
    output = plain(x).shape[-2:]
    offset = 2.5 * torch.randn(2, original.offset_channels, *output, dtype=torch.float64)  # many fall beyond the border
    offset[:, ::3] = offset[:, ::3].round()
    mask = torch.rand(2, original.offset_channels // 2, *output, dtype=torch.float64) if masked else None
    expected = original(x, offset, mask)
    assert expected.std() > 0 and expected.shape[-2:] == output
    torch.testing.assert_close(SampledDeformConv2d(original)(x, offset, mask), expected, rtol=1e-11, atol=1e-12)


@torch.no_grad()
def test_every_convolution_of_a_network_is_replaced():
    network = torch.nn.ModuleDict({name: FeatureAlign(16) for name in "ab"}).eval()
    for align in network.values():
        torch.nn.init.normal_(align.offset_mask.weight, std=0.1)
    fine, coarse = torch.randn(1, 16, 12, 10), torch.randn(1, 16, 6, 5)
    expected = [align(fine, coarse) for align in network.values()]
    names = set(network.state_dict())
    assert sample_deform_convs(network) == 2 and set(network.state_dict()) == names
    assert not any(isinstance(module, ModulatedDeformConv2d) for module in network.modules())
    for align, y in zip(network.values(), expected):
        torch.testing.assert_close(align(fine, coarse), y, rtol=1e-4, atol=1e-5)
    assert sample_deform_convs(network) == 0
