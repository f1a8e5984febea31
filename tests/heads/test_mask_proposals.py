"""Segmentation proposals: geometry, targets and sampling by hand; windows as convolutions; losses against torch's."""

import math

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, ImageList, Instances, PolygonMasks
from torch.nn import functional as F

from fapn_d2.heads.mask_proposals import MaskProposals, Positions, WindowHead, assign, object_scale
from fapn_d2.layers.region_masks import RegionMasks

STRIDES = [4, 8, 16, 32, 64]
MAPS = [(200, 250), (100, 125), (50, 63), (25, 32), (13, 16)]  # of an image of 800x1000


def positions(maps=MAPS, strides=STRIDES):
    return Positions.of(maps, strides, torch.device("cpu"))


def box(x, y, w, h=None):
    h = w if h is None else h
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def assigned(boxes, kernels=(5, 7), usable=None, **grid):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    usable = torch.ones(len(boxes), dtype=torch.bool) if usable is None else torch.tensor(usable)
    where = positions(**grid)
    return where, assign(where, boxes, usable, strides=grid.get("strides", STRIDES), kernels=kernels)


def level_and_window(side, kernels=(5, 7)):
    where, found = assigned([box(500, 400, side)], kernels)
    window, place = (found == 0).nonzero(as_tuple=True)
    assert len(window.unique()) == len(where.level[place].unique()) == 1
    return f"P{where.level[place[0]] + 2}", kernels[window[0]]


def test_scales_and_regions_of_windows():
    assert object_scale(5) == 8 and object_scale(7) == pytest.approx(8 * math.sqrt(2))
    assert [object_scale(5) * s for s in STRIDES] == [32, 64, 128, 256, 512]
    where = positions()
    assert len(where.level) == 66_658
    for level, side in enumerate((40, 80, 160, 320, 640)):  # Figure 4 and Appendix A
        place = (where.level == level).nonzero()[:1, 0]
        for kernel, factor in ((5, 1.0), (7, math.sqrt(2))):
            x0, y0, x1, y1 = where.regions(place, kernel)[0].tolist()
            assert x1 - x0 == pytest.approx(side * factor) and y1 - y0 == pytest.approx(side * factor)
            assert (x0 + x1) / 2 == pytest.approx(STRIDES[level] / 2)  # half a cell from the corner of the image


def test_level_and_window_of_an_object():
    # the paper's own: scales of 32 to 512 on P2 to P6; 128 sqrt(2) is for 7x7 on P4
    assert [level_and_window(s) for s in (32, 64, 128, 256, 512)] == [(f"P{k}", 5) for k in range(2, 7)]
    assert level_and_window(128 * math.sqrt(2)) == ("P4", 7)
    # nearest in log space: half-way between 128 and 181.02 is 152.22, and the ends take what lies beyond
    assert level_and_window(152.2) == ("P4", 5) and level_and_window(152.25) == ("P4", 7)
    assert level_and_window(215.2) == ("P4", 7) and level_and_window(215.3) == ("P5", 5)
    assert level_and_window(6) == ("P2", 5) and level_and_window(790) == ("P6", 7)
    # one window alone: half an octave to each side, 90.51 between P3 and P4 for 5x5, 128 for 7x7
    assert level_and_window(90.5, (5,)) == ("P3", 5) and level_and_window(90.6, (5,)) == ("P4", 5)
    assert level_and_window(127.9, (7,)) == ("P3", 7) and level_and_window(128.1, (7,)) == ("P4", 7)
    assert level_and_window(128.0, (7,)) == ("P3", 7)  # exactly half-way: the smaller scale
    # the scale is the greater side
    _, found = assigned([box(500, 400, 5, 64)])
    assert positions().level[(found[0] == 0).nonzero()[:, 0]].unique().tolist() == [1] and not (found[1] >= 0).any()


@pytest.mark.parametrize(
    ("x", "y", "columns", "rows"),
    [
        (40.0, 80.0, (4, 5), (9, 10)),  # on the border of cells: centres at 36, 44 and 76, 84 are 4 away
        (44.0, 80.0, (4, 5, 6), (9, 10)),  # on a centre: one cell to each side, exactly one stride away
        (44.0, 84.0, (4, 5, 6), (9, 10, 11)),
        (44.5, 84.0, (5, 6), (9, 10, 11)),  # 36 is 8.5 away
        (2.0, 2.0, (0,), (0,)),  # at the corner; 12 is 10 away
    ],
)
def test_positions_that_predict_an_object(x, y, columns, rows):
    where, found = assigned([box(x, y, 64)])  # P3, stride 8
    places = (found[0] == 0).nonzero()[:, 0]
    assert {(int(where.row[p]), int(where.column[p])) for p in places} == {(r, c) for r in rows for c in columns}
    assert (where.level[places] == 1).all() and not (found[1] >= 0).any()


def test_of_several_objects_the_nearest():
    # centres at 44 and 54; the position at 52 is 8 and 2 away, the one at 44 is 0 and 10 away
    where, found = assigned([box(44, 84, 64), box(54, 84, 64), box(54, 84, 60)])
    row = (where.level == 1) & (where.row == 10) & (where.column < 9)
    assert found[0, row].tolist() == [-1, -1, -1, -1, 0, 0, 1, 1, -1]  # equally near: the first
    _, found = assigned([box(44, 84, 64), box(54, 84, 64)], usable=[False, True])
    assert not (found == 0).any() and (found == 1).sum() == 6
    assert assigned([])[1].eq(-1).all()


def square(x0, y0, x1, y1):
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def objects(*corners, size=(96, 128), bitmask=False):
    masks = PolygonMasks([square(*c) for c in corners])
    if bitmask:
        masks = BitMasks.from_polygon_masks(masks, *size)
    boxes = Boxes(torch.tensor(corners, dtype=torch.float32).reshape(-1, 4))
    return Instances(size, gt_boxes=boxes, gt_classes=torch.zeros(len(corners), dtype=torch.long), gt_masks=masks)


def toy(channels=3, **options):
    options = {"hidden": 6, "mask_size": 14, "topk": 30, **options}
    return MaskProposals(in_features=["p2", "p3"], strides=[4, 8], channels=channels, **options)


def maps(images=1, size=(96, 128), channels=3):
    return {f"p{k}": torch.randn(images, channels, -(-size[0] // 2**k), -(-size[1] // 2**k)) for k in (2, 3)}


def grid(features):
    return Positions.of([f.shape[-2:] for f in features.values()], [4, 8], torch.device("cpu"))


@pytest.mark.parametrize("bitmask", [False, True])
def test_small_objects_and_the_padding_are_no_targets(bitmask):
    where, head = grid(maps()), toy()
    truth = objects((20, 20, 52, 52), (60, 60, 69, 71), (80, 20, 84, 60), (60, 60, 70, 70), bitmask=bitmask)
    found = head.targets(where, (96, 128), truth)
    assert {int(n) for n in found.unique()} == {-1, 0, 3}  # 9x11 is below 100 pixels, 4x40 below 5 pixels
    inside = head.targets(where, (90, 100), truth) > -2
    cells = [(level, int(r), int(c)) for level, r, c in zip(where.level, where.row, where.column)]
    expected = [r * 4 * 2**level < 90 and c * 4 * 2**level < 100 for level, r, c in cells]
    assert inside[0].tolist() == inside[1].tolist() == expected and not all(expected)


def test_sampling():
    head = toy()
    targets = torch.full((2, 500), -1)
    targets[0, :40], targets[1, :40], targets[1, 100:200] = 0, 1, -2
    positive, negative = head.sample(targets)
    assert (len(positive), len(negative)) == (32, 96)  # 1:3 of 128
    flat = targets.flatten()
    assert (flat[positive] >= 0).all() and (flat[negative] == -1).all()
    assert len(positive.unique()) == 32 and {0, 1} == set(flat[positive].tolist())
    targets[:, :35] = -1
    positive, negative = head.sample(targets)
    assert (len(positive), len(negative)) == (10, 118)  # few positives: more negatives
    assert [len(part) for part in head.sample(torch.full((2, 20), -1))] == [0, 40]


@pytest.mark.parametrize("kernel", [5, 7])
def test_windows_are_convolutions(kernel):
    torch.manual_seed(0)
    window = WindowHead(3, kernel, hidden=6, mask_size=4).double()
    for layer in (window.hidden, window.score, window.mask):
        torch.nn.init.normal_(layer.weight)
    features = [f.double() for f in maps(size=(37, 51)).values()]
    where = Positions.of([f.shape[-2:] for f in features], [4, 8], torch.device("cpu"))
    chosen = torch.randperm(len(where.level))
    hidden = window.hidden_at([f[0] for f in features], where, chosen)
    dense = [window(f) for f in features]
    scores = torch.cat([s.flatten() for s, _ in dense])
    masks = torch.cat([m.flatten(3)[0].permute(2, 0, 1) for _, m in dense])
    torch.testing.assert_close(window.scores_of(hidden), scores[chosen])
    torch.testing.assert_close(window.masks_of(hidden), masks[chosen])
    torch.testing.assert_close(torch.cat([window.scores(f).flatten() for f in features]), scores)
    # fully connected layers on the window of one position, with zeros beyond the map
    cut = F.pad(features[0][0], (kernel // 2,) * 4)[:, 2 : 2 + kernel, 3 : 3 + kernel]
    by_hand = F.relu(window.hidden.weight.flatten(1) @ cut.flatten() + window.hidden.bias)
    score = window.score.weight[0, :, 0, 0] @ by_hand + window.score.bias[0]
    torch.testing.assert_close(score.float(), dense[0][0][0, 2, 3])


def test_targets_of_masks_and_losses():
    """Everything is sampled, so the losses are those of all positions, computed densely."""
    torch.manual_seed(1)
    head = toy(batch_size_per_image=10**4, positive_fraction=0.9, kernels=(5,)).train()
    torch.nn.init.normal_(head.windows[0].hidden.weight)
    torch.nn.init.normal_(head.windows[0].mask.weight)
    features, truth = maps(), objects((22, 22, 54, 54))
    images = ImageList(torch.zeros(1, 3, 96, 128), [(96, 128)])
    _, losses = head(images, features, [truth])
    scores, masks = head.windows[0](features["p2"])
    coarse, _ = head.windows[0](features["p3"])
    # 32 pixels wide: P2; its centre at 38 is that of a cell, (9 + 0.5) * 4, so cells 8, 9, 10 predict it
    label = torch.zeros(24, 32)
    label[8:11, 8:11] = 1
    expected = F.binary_cross_entropy_with_logits(
        torch.cat([scores.flatten(), coarse.flatten()]), torch.cat([label.flatten(), torch.zeros(coarse.numel())])
    )
    torch.testing.assert_close(losses["loss_proposal_score"], expected)
    # the region of cell (i, j) is 40 pixels around ((j + 0.5) 4, (i + 0.5) 4); 40 / 14 pixels per cell of the mask
    total = 0.0
    for i in (8, 9, 10):
        for j in (8, 9, 10):
            x, y = (j + 0.5) * 4 - 20, (i + 0.5) * 4 - 20
            at = (torch.arange(14) + 0.5) * 40 / 14
            column, row = (x + at > 22) & (x + at < 54), (y + at > 22) & (y + at < 54)
            target = (row[:, None] & column).float()
            total += F.binary_cross_entropy_with_logits(masks[0, :, :, i, j], target)
    torch.testing.assert_close(losses["loss_proposal_mask"], 10 * total / 9)


@pytest.mark.parametrize("bitmask", [False, True])
def test_images_without_objects_give_every_parameter_a_gradient(bitmask):
    head = toy().train()
    features = {name: f.requires_grad_() for name, f in maps(images=2, size=(75, 101)).items()}
    images = ImageList(torch.zeros(2, 3, 75, 101), [(75, 101), (60, 80)])
    empty = Instances((75, 101), gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0, dtype=torch.long))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bitmask):
        _, losses = head(images, features, [empty, empty])
        assert losses["loss_proposal_mask"] == 0 and losses["loss_proposal_score"] > 0
        one = head(images, features, [objects((3, 4, 40, 37), size=(75, 101), bitmask=bitmask), empty])[1]
    assert one["loss_proposal_mask"] > 0
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    assert all(f.grad is not None for f in features.values())


def test_inference_equals_the_dense_computation():
    torch.manual_seed(2)
    head = toy(mask_threshold=0.3).eval()
    for window in head.windows:
        for layer in (window.hidden, window.score, window.mask):
            torch.nn.init.normal_(layer.weight)
    features, sizes = maps(images=2, size=(75, 101)), [(75, 101), (60, 80)]
    with torch.no_grad():
        found, losses = head(ImageList(torch.zeros(2, 3, 75, 101), sizes), features)
    assert losses == {}
    for image, size in enumerate(sizes):
        every = []
        for window, (kernel, side) in zip(head.windows, ((5, 10), (7, 10 * math.sqrt(2)))):
            assert window.kernel == kernel
            for stride, level in zip((4, 8), features.values()):
                scores, masks = window(level)
                for i in range(math.ceil(size[0] / stride)):
                    for j in range(math.ceil(size[1] / stride)):
                        x, y, half = (j + 0.5) * stride, (i + 0.5) * stride, side * stride / 2
                        region = torch.tensor([x - half, y - half, x + half, y + half])
                        every.append((scores[image, i, j].item(), masks[image, :, :, i, j].sigmoid(), region))
        best = sorted(every, key=lambda e: -e[0])[:30]
        own = found[image]
        assert own.image_size == size and isinstance(own.proposal_masks, RegionMasks)
        torch.testing.assert_close(own.objectness_logits, torch.tensor([e[0] for e in best]))
        torch.testing.assert_close(own.proposal_masks.probabilities, torch.stack([e[1] for e in best]))
        torch.testing.assert_close(own.proposal_masks.regions, torch.stack([e[2] for e in best]))
    few = toy(topk=10**5).eval()(ImageList(torch.zeros(2, 3, 75, 101), sizes), features)[0]
    assert [len(f) for f in few] == [2 * (19 * 26 + 10 * 13), 2 * (15 * 20 + 8 * 10)]
