"""Masks of regions: pixels as Detectron2 pastes them, run lengths as pycocotools encodes them."""

import numpy as np
import pytest
import torch
from detectron2.layers.mask_ops import _do_paste_mask
from detectron2.structures import Instances
from pycocotools import mask as coco_mask

from fapn_d2.layers import region_masks
from fapn_d2.layers.region_masks import RegionMasks

SIZE = (37, 53)


def random_masks(count=60, size=SIZE):
    generator = torch.Generator().manual_seed(3)
    corner = torch.rand(count, 2, generator=generator) * 80 - 25  # some regions are outside of the image
    side = torch.rand(count, 1, generator=generator) * 45 + 2
    probabilities = torch.rand(count, 7, 7, generator=generator)
    probabilities[0], probabilities[1] = 1.0, 0.0
    regions = torch.cat([corner, corner + side], dim=1)
    regions[0] = torch.tensor([-20.0, -20.0, 90.0, 90.0])  # the whole image, in one run
    regions[2] = torch.tensor([5.0, -40.0, 30.0, 90.0])  # whole columns, whose runs touch
    probabilities[2] = 1.0
    return RegionMasks(probabilities, regions, size, threshold=0.4)


@pytest.mark.parametrize("pixels", [2**24, 500])
def test_pixels_and_run_lengths(monkeypatch, pixels):
    monkeypatch.setattr(region_masks, "PIXELS", pixels)
    masks = random_masks()
    pasted, _ = _do_paste_mask(masks.probabilities[:, None], masks.regions, *SIZE, skip_empty=False)
    expected = pasted >= 0.4
    assert torch.equal(masks.bitmasks(), expected) and 0.02 < expected.float().mean() < 0.5
    assert expected[0].all() and not expected[1].any() and (~expected.flatten(1).any(dim=1)).sum() > 3
    encoded = coco_mask.encode(np.asfortranarray(expected.permute(1, 2, 0).numpy().astype(np.uint8)))
    assert masks.run_lengths() == encoded


def test_a_field_of_instances():
    masks = random_masks()
    scores = torch.arange(60.0)
    some = Instances(SIZE, scores=scores, masks=masks)[scores % 7 == 0].to("cpu")
    assert torch.equal(some.masks.bitmasks(), masks.bitmasks()[::7])
    # a region of 2x2 cells at twice the size: the left half
    half = RegionMasks(torch.tensor([[[1.0, 0.0]] * 2]), torch.tensor([[1.0, 1.0, 3.0, 3.0]]), (4, 4), threshold=0.5)
    drawn = half.rescaled(8, 8).bitmasks()[0]
    assert drawn.nonzero().tolist() == [[y, x] for y in range(2, 6) for x in (2, 3)]
    none = masks[:0]
    assert none.run_lengths() == [] and none.bitmasks().shape == (0, *SIZE)
    with pytest.raises(ValueError, match="must be above 0 and at most 1, got 0"):
        RegionMasks(scores, scores, SIZE, threshold=0)
