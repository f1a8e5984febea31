"""Losses against NumPy from their definitions, and the official OHEM's values and gradients."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fapn_d2.layers.losses import ohem_cross_entropy, pixel_cross_entropy


def example(dtype=torch.float64, size=(6, 7), ignored=0.2):
    logits = (3 * torch.randn(2, 4, *size, dtype=dtype)).requires_grad_()
    target = torch.randint(0, 4, (2, *size))
    target[torch.rand(target.shape) < ignored] = 255
    return logits, target


def hardest(logits, target, *, threshold, k):
    """Indices of the kept pixels and their losses, by sorting."""
    z = logits.detach().numpy().transpose(0, 2, 3, 1).reshape(-1, logits.shape[1])
    t = target.numpy().ravel()
    z, t = z[t != 255], t[t != 255]
    p = (np.exp(z) / np.exp(z).sum(1, keepdims=True))[np.arange(len(t)), t]
    limit = max(threshold, np.sort(p)[min(k, len(p)) - 1])
    return -np.log(p[p <= limit])


@pytest.mark.parametrize("ignored", [0.0, 0.2])
def test_cross_entropy_is_pytorchs(ignored):
    logits, target = example(ignored=ignored)
    torch.testing.assert_close(
        pixel_cross_entropy(logits, target), F.cross_entropy(logits, target, ignore_index=255), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize(("threshold", "k"), [(0.7, 1), (0.7, 40), (0.05, 30), (0.0, 10), (0.0, 1), (1.0, 3)])
def test_ohem_keeps_what_its_definition_says(threshold, k):
    logits, target = example()
    expected = hardest(logits, target, threshold=threshold, k=k)
    got = ohem_cross_entropy(logits, target, threshold=threshold, min_kept=k)
    assert got.item() == pytest.approx(expected.mean(), rel=1e-12)
    got.backward()
    assert (logits.grad.abs().sum(1) > 0).sum() == len(expected)


def test_ohem_counts_pixels_in_three_ways():
    logits, target = example(size=(10, 10))
    valid = (target != 255).sum().item()
    tenth = math.ceil(0.1 * valid)
    options = dict(threshold=0.0)
    by_number = ohem_cross_entropy(logits, target, min_kept=tenth, **options)
    assert ohem_cross_entropy(logits, target, keep_fraction=0.1, **options) == by_number
    assert ohem_cross_entropy(logits, target, keep_fraction=0.1, min_kept=3, **options) == by_number
    twenty = ohem_cross_entropy(logits, target, min_kept=20, **options)
    assert ohem_cross_entropy(logits, target, min_kept_per_image=10, **options) == twenty


def test_without_mining_and_with_few_pixels_all_count():
    logits, target = example()
    everything = pixel_cross_entropy(logits, target)
    torch.testing.assert_close(ohem_cross_entropy(logits, target, threshold=0.05), everything)
    torch.testing.assert_close(ohem_cross_entropy(logits, target, threshold=0.05, min_kept=10_000), everything)


@pytest.mark.parametrize("loss", [pixel_cross_entropy, ohem_cross_entropy])
def test_every_pixel_ignored(loss):
    logits, target = example(ignored=2.0)
    value = loss(logits, target)
    assert value.item() == 0
    value.backward()
    assert logits.grad is not None and not logits.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    """Computed in float32: as exact as the rounded logits."""
    logits, target = example(torch.float32)
    rounded = logits.detach().to(dtype)
    for options in ({}, {"keep_fraction": 0.1, "threshold": 0.0}):
        got = ohem_cross_entropy(rounded, target, **options)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, ohem_cross_entropy(rounded.float(), target, **options))


OFFICIAL = [(0.7, 20), (0.7, 100), (0.7, 400), (0.3, 20), (0.1, 50), (0.7, 10_000), (0.05, 0)]


@pytest.mark.parametrize(("threshold", "min_kept"), OFFICIAL)
def test_official_values_and_gradients(reference, threshold, min_kept):
    arrays = np.load(reference / "sfnet" / "loss.npz")
    logits = torch.from_numpy(arrays["logits"]).double().requires_grad_()
    target = torch.from_numpy(arrays["target"])
    loss = ohem_cross_entropy(logits, target, threshold=threshold, min_kept=min_kept)
    loss.backward()
    case = f"ohem_t{threshold:g}_k{min_kept}"
    torch.testing.assert_close(loss.item(), arrays[f"{case}/loss64"].item(), rtol=0, atol=1e-9)
    torch.testing.assert_close(logits.grad, torch.from_numpy(arrays[f"{case}/grad64"]), rtol=0, atol=1e-12)
