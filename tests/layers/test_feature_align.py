"""FAM against its definition written plainly, with torchvision's deformable convolution."""

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from fapn_d2.layers.feature_align import FeatureAlign, mean_displacement


def randomised(channels, **options):
    """Offsets and masks start at constants; random weights make every path count."""
    module = FeatureAlign(channels, **options).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module


def plain(module, fine, coarse):
    size = fine.shape[-2:]
    options = {} if module.upsample_mode == "nearest" else {"align_corners": False}
    up = coarse if coarse.shape[-2:] == size else F.interpolate(coarse, size=size, mode=module.upsample_mode, **options)
    reference = module.offset_reduce(torch.cat([fine, module.offset_gain * up], dim=1))
    prediction = F.conv2d(reference, module.offset_mask.weight, module.offset_mask.bias, padding=1)
    y1, y2, mask = prediction.chunk(3, dim=1)
    conv = module.deform_conv
    offset = torch.cat([y1, y2], dim=1)
    return deform_conv2d(up, offset, conv.weight, conv.bias, padding=1, mask=mask.sigmoid()).relu()


@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
@pytest.mark.parametrize("norm", ["", "GN"])
@pytest.mark.parametrize(("fine", "coarse"), [((8, 12), (4, 6)), ((7, 9), (4, 5)), ((5, 5), (5, 5)), ((9, 4), (3, 1))])
def test_plain_form(fine, coarse, norm, upsample):
    module = randomised(32, offset_groups=4, norm=norm, upsample=upsample)
    fine = torch.randn(2, 32, *fine, dtype=torch.float64, requires_grad=True)
    coarse = torch.randn(2, 32, *coarse, dtype=torch.float64, requires_grad=True)
    inputs = (fine, coarse, *module.parameters())
    got, expected = module(fine, coarse), plain(module, fine, coarse)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    cotangent = torch.randn_like(got)
    for a, b in zip(torch.autograd.grad(got, inputs, cotangent), torch.autograd.grad(expected, inputs, cotangent)):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_starts_as_half_a_convolution():
    """Zero offsets and masks of one half: relu(conv3x3(up) / 2)."""
    module = FeatureAlign(8)
    fine, coarse = torch.randn(1, 8, 6, 8), torch.randn(1, 8, 3, 4)
    expected = F.conv2d(module.upsample(fine, coarse), module.deform_conv.weight, padding=1).relu() / 2
    torch.testing.assert_close(module(fine, coarse), expected, rtol=1e-5, atol=1e-6)


def test_fused_input_has_no_1x1():
    module = randomised(8, fused_input=True)
    assert not hasattr(module, "offset_reduce")
    fused = torch.randn(1, 8, 5, 6, dtype=torch.float64)
    offset, mask = module.offset_mask(fused).split([144, 72], dim=1)
    conv = module.deform_conv
    expected = deform_conv2d(fused, offset, conv.weight, conv.bias, padding=1, mask=mask.sigmoid()).relu()
    torch.testing.assert_close(module.align_fused(fused), expected, rtol=1e-10, atol=1e-10)


def test_errors():
    with pytest.raises(ValueError, match="unknown upsampling 'cubic' before alignment; allowed: nearest, bilinear"):
        FeatureAlign(8, upsample="cubic")
    with pytest.raises(ValueError, match="12 channels cannot be split into 8 offset groups"):
        FeatureAlign(12)


@pytest.mark.parametrize("size", [(2, 2), (24, 32)])
def test_diverged_offsets_give_nan_instead_of_a_crash(size):
    """torchvision's CPU operator, which small maps use, ends the process on NaN offsets."""
    module = randomised(8)
    with torch.no_grad():
        module.offset_mask.bias[:144] = torch.nan
    output = module(torch.randn(1, 8, *size, dtype=torch.float64), torch.randn(1, 8, *size, dtype=torch.float64))
    # relu keeps NaN
    assert output.isnan().all()
    output.sum().backward()


def test_mean_displacement_weighs_taps():
    # Two groups of one tap: the mask makes the first count three times, the weights the second twice.
    offset = torch.tensor([1.0, 2.0, -3.0, 4.0]).view(4, 1, 1)
    mask = torch.tensor([0.9, 0.3]).view(2, 1, 1)
    weight = torch.tensor([[[[1.0]], [[2.0]]]])
    share = 0.9 / (0.9 + 0.6)
    expected = [share * 1 + (1 - share) * -3, share * 2 + (1 - share) * 4]
    assert mean_displacement(offset, mask, weight).flatten().tolist() == pytest.approx(expected)
    assert mean_displacement(offset, mask * 0, weight).flatten().tolist() == [0, 0]
    # images of a batch are independent
    batch = mean_displacement(torch.stack([offset, 2 * offset]), torch.stack([mask, mask]), weight)
    assert batch[1].flatten().tolist() == pytest.approx([2 * v for v in expected])
