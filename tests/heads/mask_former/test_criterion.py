"""Matching and losses against the official arrays, a slow reference and by hand."""

import itertools

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from fapn_d2.heads.mask_former.criterion import SetCriterion
from fapn_d2.heads.mask_former.matcher import HungarianMatcher, Targets

from .arrays import load

FILES = ("criterion", "criterion_empty_image")


def inputs(meta, arrays):
    """Logits (L,N,Q,K+1), masks (L,N,Q,h,w), targets; layers in the decoder's order."""
    layers = sorted({key.split("/")[1] for key in arrays if key.startswith("in/")})  # aux0, ..., final
    logits, masks = (torch.stack([arrays[f"in/{l}/pred_{kind}"] for l in layers]) for kind in ("logits", "masks"))
    targets = [
        Targets(arrays[f"target{i}/labels"], arrays[f"target{i}/masks"].bool()) for i in range(len(meta["counts"]))
    ]
    return layers, logits, masks, targets


def criterion(meta, **options):
    weights = {"mask_weight": meta["weights"]["mask"], "dice_weight": meta["weights"]["dice"]}
    matcher = HungarianMatcher(**weights)
    return SetCriterion(meta["num_classes"], matcher=matcher, no_object_weight=meta["eos_coef"], **weights, **options)


@pytest.mark.parametrize("name", FILES)
def test_costs_and_matches(reference, name):
    meta, arrays = load(reference, name)
    layers, logits, masks, targets = inputs(meta, arrays)
    matcher = criterion(meta).matcher
    matching = matcher(logits, masks, targets)
    for i, t in enumerate(targets):
        costs = matcher.costs(logits[:, i], masks[:, i], t)
        for l, layer in enumerate(layers):
            for kind, cost in zip(("class", "mask", "dice"), costs):
                expected = arrays[f"cost64/{layer}/image{i}/{kind}"]
                torch.testing.assert_close(cost[l], expected, rtol=1e-9, atol=1e-9)
            chosen = (matching.layer == l) & (matching.image == i)
            assert matching.query[chosen].tolist() == arrays[f"match/{layer}/image{i}/query"].tolist()
            assert matching.target[chosen].tolist() == arrays[f"match/{layer}/image{i}/target"].tolist()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("chunk_pixels", [1, 3 * 64 * 96, 10**9])
def test_losses_and_gradients(reference, name, chunk_pixels):
    meta, arrays = load(reference, name)
    layers, logits, masks, targets = inputs(meta, arrays)
    logits.requires_grad_(), masks.requires_grad_()
    loss = criterion(meta, chunk_pixels=chunk_pixels)
    unweighted = dict(loss.losses(logits, masks, targets))
    expected = {key.removeprefix("loss64/"): v for key, v in arrays.items() if key.startswith("loss64/loss")}
    assert unweighted.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(unweighted[key], value, rtol=1e-9, atol=1e-9)
    total = sum(loss(logits, masks, targets).values())
    torch.testing.assert_close(total, arrays["loss64/total"], rtol=1e-9, atol=1e-9)
    total.backward()
    for l, layer in enumerate(layers):
        torch.testing.assert_close(logits.grad[l], arrays[f"grad64/{layer}/pred_logits"], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(masks.grad[l], arrays[f"grad64/{layer}/pred_masks"], rtol=1e-9, atol=1e-9)


def random_inputs(counts, *, queries=5, classes=3, size=(16, 24), dtype=torch.float32):
    logits = torch.randn(2, len(counts), queries, classes + 1, dtype=dtype, requires_grad=True)
    masks = torch.randn(2, len(counts), queries, size[0] // 4, size[1] // 4, dtype=dtype, requires_grad=True)
    targets = [Targets(torch.randint(classes, (n,)), torch.rand(n, *size) > 0.5) for n in counts]
    return logits, masks, targets


def small_criterion(classes=3, **options):
    return SetCriterion(classes, matcher=HungarianMatcher(), **options)


def test_matching_is_the_cheapest_of_all():
    logits, masks, targets = random_inputs([3])
    matcher = HungarianMatcher(class_weight=2.0, mask_weight=5.0, dice_weight=3.0)
    by_class, by_mask, by_dice = matcher.costs(logits[:, 0], masks[:, 0], targets[0])
    cost = 2 * by_class + 5 * by_mask + 3 * by_dice
    matching = matcher(logits, masks, targets)
    for layer in range(2):
        chosen = matching.layer == layer
        found = cost[layer, matching.query[chosen], matching.target[chosen]].sum()
        best = min(cost[layer, list(q), range(3)].sum() for q in itertools.permutations(range(5), 3))
        torch.testing.assert_close(found, best)


def test_costs_by_hand():
    logits, masks, _ = random_inputs([1], queries=1, size=(8, 8))
    wanted = torch.zeros(1, 8, 8, dtype=torch.bool)
    wanted[:, :4] = True
    by_class, by_mask, by_dice = HungarianMatcher().costs(logits[:, 0], masks[:, 0], Targets(torch.tensor([2]), wanted))
    p, t = masks[0, 0, 0].sigmoid(), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    focal = torch.where(t == 1, -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log()).mean()
    torch.testing.assert_close(by_class[0, 0, 0], -logits[0, 0, 0].softmax(0)[2])
    torch.testing.assert_close(by_mask[0, 0, 0], focal)
    torch.testing.assert_close(by_dice[0, 0, 0], 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1))


def test_a_batch_without_targets():
    logits, masks, targets = random_inputs([0, 0])
    losses = small_criterion()(logits, masks, targets)
    assert losses["loss_mask"] == losses["loss_dice_0"] == 0
    expected = F.cross_entropy(logits[1].flatten(0, 1), torch.full((10,), 3))
    torch.testing.assert_close(losses["loss_ce"], expected)
    sum(losses.values()).backward()
    assert torch.equal(masks.grad, torch.zeros_like(masks)) and logits.grad.abs().sum() > 0


def test_more_targets_than_queries():
    logits, masks, targets = random_inputs([7, 1])
    matching = HungarianMatcher()(logits, masks, targets)
    assert len(matching.query) == 2 * (5 + 1)
    losses = dict(small_criterion().losses(logits, masks, targets))
    # divided by all targets, also those without a query
    last = (matching.layer == 1).nonzero().flatten()
    p = F.interpolate(masks[1], size=(16, 24), mode="bilinear", align_corners=False).sigmoid()
    dice = 0
    for i in last.tolist():
        prediction = p[matching.image[i], matching.query[i]]
        wanted = targets[matching.image[i]].masks[matching.target[i]].float()
        dice += 1 - (2 * (prediction * wanted).sum() + 1) / (prediction.sum() + wanted.sum() + 1)
    torch.testing.assert_close(losses["loss_dice"], dice / 8)


def test_number_of_targets_is_averaged_over_processes(monkeypatch):
    logits, masks, targets = random_inputs([2, 1])
    alone = dict(small_criterion().losses(logits, masks, targets))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda t: t.add_(5))  # the other process has 5
    both = dict(small_criterion().losses(logits, masks, targets))
    torch.testing.assert_close(both["loss_mask"], alone["loss_mask"] * 3 / 4)
    torch.testing.assert_close(both["loss_ce"], alone["loss_ce"])


def test_half_precision_is_computed_in_float32():
    logits, masks, targets = random_inputs([2, 1])
    half, exact = logits.detach().bfloat16(), masks.detach().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = small_criterion()(half, exact, targets)
    expected = small_criterion()(half.float(), exact.float(), targets)
    for key, value in expected.items():
        assert ours[key].dtype == torch.float32
        torch.testing.assert_close(ours[key], value)


def test_numbers_that_overflowed_do_not_stop_the_matching():
    logits, masks, targets = random_inputs([2, 1])
    broken = masks.detach().clone()
    broken[0, 0, 0] = float("nan")
    broken[1, 1, 2] = float("inf")
    matching = HungarianMatcher()(logits, broken, targets)
    assert len(matching.query) == 6
    assert 0 not in matching.query[(matching.layer == 0) & (matching.image == 0)]


def test_memory_does_not_grow_with_the_number_of_pairs():
    """What autograd keeps between the passes are maps of the predictions' size."""
    kept = []

    def pack(t):
        kept.append(t.numel() * t.element_size())
        return t

    sizes = {}
    for chunk in (1, 10**9):
        logits, masks, targets = random_inputs([20, 20], queries=30, size=(64, 64))
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            losses = small_criterion(chunk_pixels=chunk)(logits, masks, targets)
        sizes[chunk] = max(kept)
        sum(losses.values()).backward()
    full = 64 * 64 * 4
    assert all(size < 2 * 80 * full for size in sizes.values())
    # the low-resolution masks of all pairs, and the targets (bool)
    assert sum(kept) < 10 * 80 * 16 * 16 * 4 + 40 * 64 * 64 * len(kept)


class Synchronizations(TorchDispatchMode):
    """Counts operators after which a program waits for the GPU, because it reads values or sizes from it."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal"):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("counts", [[2], [2, 0, 3, 1, 2]])
def test_the_gpu_is_waited_for_once(counts, monkeypatch):
    """One copy to the CPU, whatever number of images and layers there is, in matching and losses together."""
    logits, masks, targets = random_inputs(counts)
    copies = []
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda t: copies.append(t.shape) or cpu(t))
    with Synchronizations() as waiting:
        losses = small_criterion()(logits, masks, targets)
    assert copies == [(2 * 5 * sum(counts),)]  # layers, queries, targets
    assert waiting.found == [] and losses["loss_ce"].isfinite()
