"""Kernel fusion against the official arrays, a slow loop, and hand-made chains."""

import pytest
import torch
from torch.nn import functional as F

from fapn_d2.heads.panoptic_fcn.kernel_fusion import fuse_stuff, fuse_things
from fapn_d2.heads.panoptic_fcn.kernel_head import mask_logits

from .networks import Arrays, Embeddings, assert_near, ours


def slow_fusion(kernels, classes, scores, threshold):
    owners = []
    for j in range(len(kernels)):
        for i in range(j + 1):
            alike = i == j or F.cosine_similarity(kernels[i], kernels[j], dim=0) >= threshold
            if alike and classes[i] == classes[j]:
                owners.append(i)
                break
    kept = [j for j, owner in enumerate(owners) if owner == j]
    fused = [kernels[[j for j, owner in enumerate(owners) if owner == k]].mean(dim=0) for k in kept]
    return torch.stack(fused), classes[kept], scores[kept]


def test_official_arrays(reference):
    arrays, embeddings = Arrays(reference / "panoptic_fcn" / "kernel_fusion.npz"), Embeddings().double()
    embeddings.load_state_dict(ours(arrays.below("sd")))
    encoded = arrays["in/encode_feat"][0]
    for kind, embed in (("thing", embeddings.thing_generator), ("stuff", embeddings.stuff_generator)):
        embedded = embed(arrays["in/kernels"])
        assert_near(embedded, arrays[f"out64/{kind}_embedded"])
        classes, scores = arrays[f"in/{kind}_classes"], arrays[f"in/{kind}_scores"]
        if kind == "thing":
            similarity = F.normalize(embedded, dim=1) @ F.normalize(embedded, dim=1).T
            assert_near(similarity, arrays["out64/thing_similarity"])
            kernels, classes, scores = fuse_things(embedded, classes, scores, least_similarity=0.9)
        else:
            kernels, classes, scores = fuse_stuff(embedded, classes, scores, num_classes=6)
        assert_near(kernels, arrays[f"out64/{kind}_kernels"])
        assert classes.tolist() == arrays[f"out64/{kind}_classes"].tolist()
        assert_near(scores, arrays[f"out64/{kind}_scores"])
        assert_near(mask_logits(kernels, encoded), arrays[f"out64/{kind}_masks"][0])


@pytest.mark.parametrize("threshold", [-1.0, 0.3, 0.6, 0.9, 1.5])
def test_a_loop_finds_the_same(threshold):
    kernels, classes = torch.randn(40, 3, dtype=torch.float64), torch.randint(0, 3, (40,))
    scores = torch.linspace(1, 0, 40)
    got = fuse_things(kernels, classes, scores, least_similarity=threshold)
    for value, expected in zip(got, slow_fusion(kernels, classes, scores, threshold)):
        torch.testing.assert_close(value, expected)


def test_a_chain_loses_its_end():
    """b is like a, c is like b and not like a: b joins a, and c is lost with its owner b."""
    angles = torch.tensor([0.0, 20.0, 40.0, 40.0]).deg2rad()
    kernels = torch.stack([angles.cos(), angles.sin()], dim=1)
    classes, scores = torch.tensor([0, 0, 0, 1]), torch.tensor([0.9, 0.8, 0.7, 0.6])
    fused, kept, _ = fuse_things(kernels, classes, scores, least_similarity=0.9)
    torch.testing.assert_close(fused, torch.stack([kernels[:2].mean(dim=0), kernels[3]]))
    assert kept.tolist() == [0, 1]  # another class is another object, however alike


def test_nothing_and_kernels_of_zeros():
    none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0)
    assert [len(x) for x in fuse_things(*none, least_similarity=0.9)] == [0, 0, 0]
    assert [len(x) for x in fuse_stuff(*none, num_classes=3)] == [0, 0, 0]
    zeros = torch.zeros(3, 4), torch.zeros(3, dtype=torch.long), torch.ones(3)
    assert len(fuse_things(*zeros, least_similarity=0.9)[0]) == 3
