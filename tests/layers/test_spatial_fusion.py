"""Fusions against their definitions, position by position."""

import pytest
import torch

from fapn_d2.layers.spatial_fusion import FUSIONS, AdaptiveChannelFusion, AdaptiveSpatialFusion, build_fusion


def maps(n=3, batch=2, channels=4, size=(5, 6), requires_grad=False):
    shape = (batch, channels, *size)
    return [torch.randn(shape, dtype=torch.float64, requires_grad=requires_grad) for _ in range(n)]


def test_sum_and_maximum_by_hand():
    a, b = torch.tensor([[[[1.0, -2.0]]]]), torch.tensor([[[[3.0, -5.0]]]])
    assert build_fusion("sum", 1, 2, key="K")([a, b]).flatten().tolist() == [4.0, -7.0]
    assert build_fusion("max", 1, 2, key="K")([a, b]).flatten().tolist() == [3.0, -2.0]


def test_spatial_weights_position_by_position():
    fusion = AdaptiveSpatialFusion(4, 3).double()
    values = maps()
    stacked = torch.cat(values, dim=1)
    hidden = (
        torch.einsum("dc,nchw->ndhw", fusion.reduce.weight[:, :, 0, 0], stacked) + fusion.reduce.bias[:, None, None]
    )
    hidden = torch.nn.functional.pad(hidden.clamp(min=0), (1, 1, 1, 1))
    expected = torch.zeros_like(values[0])
    for y in range(5):
        for x in range(6):
            window = hidden[:, :, y : y + 3, x : x + 3]
            logits = torch.einsum("jckl,nckl->nj", fusion.gate.weight, window) + fusion.gate.bias
            for j in range(3):
                expected[:, :, y, x] += logits[:, j, None].sigmoid() * values[j][:, :, y, x]
    torch.testing.assert_close(fusion(values), expected, rtol=1e-12, atol=1e-12)
    assert fusion.weights(values).shape == (2, 3, 5, 6)


def test_channel_weights_channel_by_channel():
    fusion = AdaptiveChannelFusion(4, 3).double()
    values = maps()
    pooled = torch.cat([v.mean(dim=(2, 3)) for v in values], dim=1)
    hidden = (pooled @ fusion.squeeze.weight[:, :, 0, 0].T + fusion.squeeze.bias).clamp(min=0)
    gate = (hidden @ fusion.excite.weight[:, :, 0, 0].T + fusion.excite.bias).sigmoid()
    expected = sum(gate[:, 4 * j : 4 * j + 4, None, None] * values[j] for j in range(3))
    torch.testing.assert_close(fusion(values), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(fusion.weights(values).flatten(1), gate)


@pytest.mark.parametrize("name", FUSIONS)
def test_gradients_and_no_maps(name):
    fusion = build_fusion(name, 2, 2, key="K").double()
    values = maps(n=2, batch=1, channels=2, size=(2, 3), requires_grad=True)
    assert torch.autograd.gradcheck(lambda *v: fusion(v), values)
    fusion([v[:0] for v in values]).sum().backward()  # no region in the whole batch: DDP still needs gradients
    assert all(p.grad is not None and not p.grad.any() for p in fusion.parameters())


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(name, dtype):
    fusion = build_fusion(name, 8, 3, key="K")
    values = [v.float() for v in maps(channels=8)]
    expected = fusion(values)
    with torch.autocast("cpu", dtype=dtype):
        got = fusion(values)
    assert (got.float() - expected).norm() / expected.norm() < 0.02


def test_initialisation_is_mmdetections():
    fusion = AdaptiveSpatialFusion(64, 3)
    for conv, fan_in, fan_out in ((fusion.reduce, 192, 64), (fusion.gate, 576, 27)):
        bound = (6 / (fan_in + fan_out)) ** 0.5
        assert 0.95 * bound < conv.weight.abs().max() <= bound
        assert not conv.bias.any()


def test_parameters_of_the_paper():
    """facts of the official code: ASF on RoI features of four levels has 271,620 parameters."""
    assert sum(p.numel() for p in AdaptiveSpatialFusion(256, 4).parameters()) == 271_620


def test_unknown_name():
    with pytest.raises(ValueError, match=r"MODEL\.X\.FUSION: unknown fusion 'mean'; allowed: sum, max, acf, asf"):
        build_fusion("mean", 8, 2, key="MODEL.X.FUSION")
