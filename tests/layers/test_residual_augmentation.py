"""Residual Feature Augmentation: pooled sizes, hand-computed pooling and upsampling, every variant of Table 4."""

import pytest
import torch

from fapn_d2.layers.residual_augmentation import ResidualAugmentation


def test_pooled_sizes_of_known_maps():
    """Sizes of the official code for inputs of 800x1344 and 800x1088, and a map too small to divide."""
    module = ResidualAugmentation(4, 4)
    assert module.pooled_sizes(25, 42) == [(2, 4), (5, 8), (7, 12)]
    assert module.pooled_sizes(25, 34) == [(2, 3), (5, 6), (7, 10)]
    assert module.pooled_sizes(4, 5) == [(1, 1)] * 3
    assert ResidualAugmentation(4, 4, pooling="psp").pooled_sizes(25, 42) == [(1, 1), (2, 2), (3, 3)]
    assert ResidualAugmentation(4, 4, pooling="gap").pooled_sizes(25, 42) == [(1, 1)]


def test_one_row_by_hand():
    """Row 1 2 3 4 in halves: means 1.5 and 3.5, whose corners are aligned when they are upsampled again."""
    module = ResidualAugmentation(1, 1, ratios=[0.5], fusion="sum")
    module.reduce[0].weight.data.fill_(2.0)
    row = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4)
    third = (3.5 - 1.5) / 3
    expected = 2 * torch.tensor([1.5, 1.5 + third, 1.5 + 2 * third, 3.5])
    torch.testing.assert_close(module(row).flatten(), expected)


@pytest.mark.parametrize(("pooling", "reduced"), [("gap", 2.5), ("gmp", 4.0)])
def test_global_pooling_is_broadcast(pooling, reduced):
    module = ResidualAugmentation(1, 1, pooling=pooling, fusion="sum")
    module.reduce[0].weight.data.fill_(1.0)
    row = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4)
    assert module(row).flatten().tolist() == [reduced] * 4


VARIANTS = [  # Table 4, with the parameters of D = 256 on C5 of a ResNet-50
    (dict(pooling="gmp", fusion="sum"), 1),
    (dict(pooling="gap", fusion="sum"), 1),
    (dict(fusion="sum"), 3),
    (dict(ratios=[0.1]), 1),
    (dict(ratios=[0.1, 0.2]), 2),
    (dict(), 3),
    (dict(ratios=[0.1, 0.2, 0.3, 0.4]), 4),
    (dict(ratios=[0.1, 0.2, 0.4]), 3),
    (dict(ratios=[0.1, 0.2, 0.5]), 3),
    (dict(pooling="psp"), 3),
]


@pytest.mark.parametrize(("options", "branches"), VARIANTS)
def test_every_row_of_table_4(options, branches):
    module = ResidualAugmentation(6, 4, **options)
    x = torch.randn(2, 6, 13, 21, requires_grad=True)
    out = module(x)
    assert out.shape == (2, 4, 13, 21)
    out.square().sum().backward()
    assert x.grad.isfinite().all() and all(p.grad is not None for p in module.parameters())
    with torch.device("meta"):
        full = ResidualAugmentation(2048, 256, **options)
    fusion = 0 if options.get("fusion") == "sum" else branches * 256 * 256 + 256 + branches * (256 * 9 + 1)
    assert sum(p.numel() for p in full.parameters()) == branches * (2048 * 256 + 256) + fusion
    assert branches != 3 or fusion == 0 or sum(p.numel() for p in full.parameters()) == 1_777_411  # facts, section d


def test_initialisation_is_mmdetections():
    module = ResidualAugmentation(96, 32)
    bound = (6 / (96 + 32)) ** 0.5
    for conv in module.reduce:
        assert 0.95 * bound < conv.weight.abs().max() <= bound
        assert not conv.bias.any()


@pytest.mark.parametrize("pooling", ["ratio", "gmp"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(pooling, dtype):
    module = ResidualAugmentation(8, 8, pooling=pooling)
    x = torch.randn(1, 8, 13, 21)
    expected = module(x)
    with torch.autocast("cpu", dtype=dtype):
        got = module(x)
    assert (got.float() - expected).norm() / expected.norm() < 0.02


ERRORS = [
    (dict(pooling="avg"), "POOLING: unknown pooling 'avg'; allowed: ratio, psp, gap, gmp"),
    (dict(ratios=[0.1, 0]), r"RATIOS = \[0.1, 0\]: needs at least one, each in \(0, 1\]"),
    (dict(ratios=[]), r"RATIOS = \[\]"),
    (dict(pooling="psp", sizes=[1, 2.5]), r"SIZES = \[1, 2.5\]: needs at least one, each a whole number above 0"),
    (dict(fusion="mean"), "FUSION: unknown fusion 'mean'"),
]


@pytest.mark.parametrize(("options", "message"), ERRORS)
def test_errors(options, message):
    with pytest.raises(ValueError, match="MODEL.NECK.RESIDUAL_AUGMENTATION." + message):
        ResidualAugmentation(8, 8, **options)
