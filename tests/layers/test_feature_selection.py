"""FSM against Equation 4 written out, and the fold of its gate into the weights."""

import pytest
import torch

from fapn_d2.layers.feature_selection import FeatureSelection


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (16, 24)])
def test_equation_4(skip, size):
    module = FeatureSelection(12, 6, skip=skip).double()
    x = torch.randn(2, 12, *size, dtype=torch.float64)
    gate = torch.sigmoid(torch.einsum("dc,nc->nd", module.importance.weight[..., 0, 0], x.mean(dim=(2, 3))))
    rescaled = gate[..., None, None] * x + (x if skip else 0)
    expected = torch.einsum("oc,nchw->nohw", module.selection.weight[..., 0, 0], rescaled)
    torch.testing.assert_close(module(x), expected, rtol=1e-12, atol=1e-12)


def test_by_hand():
    """One channel of value 2 everywhere, weights 1 and 3: u = sigmoid(2), output 3 (2 + 2 u)."""
    module = FeatureSelection(1, 1)
    with torch.no_grad():
        module.importance.weight.fill_(1)
        module.selection.weight.fill_(3)
    assert module(torch.full((1, 1, 2, 2), 2.0)).flatten().tolist() == pytest.approx([11.284782] * 4, abs=1e-5)


def test_gradients():
    module = FeatureSelection(4, 3).double()
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64, requires_grad=True)
    weights = tuple(module.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: module(x), (x, *weights))


def test_channels_last_and_autocast():
    module = FeatureSelection(16, 8)
    x = torch.randn(2, 16, 9, 11)
    expected = module(x)
    last = module(x.to(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, expected, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = module(x)
    assert got.dtype == torch.bfloat16
    assert (got.float() - expected).norm() / expected.norm() < 0.01  # bf16 keeps 8 bits
