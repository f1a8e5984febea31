"""Targets and losses: the official modules' arrays, hand-computed numbers, batches in which something is missing."""

import math

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch.nn import functional as F

from fapn_d2.heads.panoptic_fcn.losses import PanopticFCNLosses, Predictions, region_kernels
from fapn_d2.heads.panoptic_fcn.targets import TargetBuilder, gaussian_radius, gaussian_scores
from fapn_d2.layers.losses import squared_dice_loss
from fapn_d2.layers.resize import shrink_labels, shrink_masks

from .networks import LEVELS, Arrays, Embeddings, assert_near, ours

CASES = ("truth_and_losses", "truth_and_losses_one_image_empty")
SCALES = [(1, 16), (8, 32), (16, 64), (32, 96), (64, 512)]
CPU = torch.device("cpu")


def official_batch(arrays):
    instances, sem_seg = [], []
    for i in range(2):
        target = arrays.below(f"target{i}")
        labels = target["sem_seg"].long()
        found = Instances(tuple(labels.shape))
        found.gt_boxes = Boxes(target["boxes"])
        found.gt_boxes.tensor = target["boxes"]
        found.gt_classes = target["classes"]
        if len(found):
            found.gt_masks = BitMasks(target["masks"].bool())
        instances.append(found)
        sem_seg.append(labels)
    return instances, sem_seg


def official_targets(arrays, dtype=torch.float64):
    builder = TargetBuilder(num_things=5, num_stuff=6, scales=SCALES)
    levels = [tuple(x.shape[2:]) for x in arrays.levels("in/center")]
    finest = tuple(arrays["in/encode_feat"].shape[2:])
    return builder(*official_batch(arrays), finest=finest, levels=levels, device=CPU, dtype=dtype)


def losses_of(num_kernels, **options):
    weights = {"position_weight": 1.0, "segment_weight": 3.0, "alpha": 0.25, "gamma": 2.0}
    return PanopticFCNLosses(num_kernels=num_kernels, **weights, **options)


@pytest.mark.parametrize("case", CASES)
def test_official_targets(reference, case):
    arrays = Arrays(reference / "panoptic_fcn" / f"{case}.npz")
    targets = official_targets(arrays)
    for i, level in enumerate(LEVELS):
        assert_near(targets.centers[i], arrays[f"gt/center/{level}"])
        assert_near(targets.regions[i], arrays[f"gt/sem_scores/{level}"], atol=1e-6)
        for image in range(2):
            used = arrays[f"gt/index_mask/{level}"][image].bool()
            objects = targets.objects[i][image]
            assert targets.classes[image][objects].tolist() == arrays[f"gt/class/{level}"][image][used].tolist()
            assert_near(targets.masks[image][objects], arrays[f"gt/inst/{level}"][image][used], atol=1e-6)
            there = targets.regions[i][image].flatten(1).any(dim=1)
            present = arrays[f"gt/sem_index/{level}"][image].bool()
            assert_near(targets.semantic[image][there], arrays[f"gt/sem_labels/{level}"][image][present], atol=1e-6)
            regions = (targets.regions[i][image][there] > 0).double()
            assert_near(regions, arrays[f"gt/sem_masks/{level}"][image][present])


@pytest.mark.parametrize("chunk_pixels", [1, 10**9])
@pytest.mark.parametrize("case", CASES)
def test_official_losses(reference, case, chunk_pixels):
    arrays = Arrays(reference / "panoptic_fcn" / f"{case}.npz")
    embeddings = Embeddings().double()
    embeddings.load_state_dict(ours(arrays.below("sd")))
    inputs = {
        name: [x.requires_grad_() for x in arrays.levels(f"in/{name}")] for name in ("center", "region", "kernel")
    }
    encoded = arrays["in/encode_feat"].requires_grad_()
    predictions = Predictions(inputs["center"], inputs["region"], inputs["kernel"], encoded)
    criterion = losses_of(3, chunk_pixels=chunk_pixels)
    losses = criterion(predictions, official_targets(arrays), embeddings.thing_generator, embeddings.stuff_generator)
    for name, value in arrays.below("loss64").items():
        assert losses[name].item() == pytest.approx(value.item(), abs=1e-9)

    alone = torch.autograd.grad(losses["loss_seg_th"], inputs["center"][:2], retain_graph=True, materialize_grads=True)
    for level, got in zip(LEVELS, alone):
        assert_near(got, arrays[f"grad64_of_loss_seg_th/center/{level}"])
    sum(losses.values()).backward()
    for name, tensors in inputs.items():
        for level, tensor in zip(LEVELS, tensors):
            assert_near(tensor.grad, arrays[f"grad64/{name}/{level}"])
    assert_near(encoded.grad, arrays["grad64/encode_feat"])
    parameters = dict(embeddings.named_parameters())
    for name, value in ours(arrays.below("grad64/sd")).items():
        # The arrays of thing_generator hold two backward passes, of loss_seg_th alone and of the sum: they are
        # twice what follows from the gradients of the kernel maps.
        passes = 2 if name.startswith("thing_generator") else 1
        assert_near(passes * parameters[name].grad, value)


def test_float32_differs_from_float64_by_rounding_alone(reference):
    arrays = Arrays(reference / "panoptic_fcn" / "truth_and_losses.npz")
    single, double = official_targets(arrays, torch.float32), official_targets(arrays)
    for a, b in ((single.centers, double.centers), (single.regions, double.regions), (single.masks, double.masks)):
        for x, y in zip(a, b):
            assert x.dtype == torch.float32
            assert_near(x, y, atol=1e-6)


@pytest.mark.parametrize("size", [((16, 24), (4, 6)), ((13, 30), (3, 8)), ((5, 3), (1, 1))])
def test_shrinking_is_bilinear_resizing(size):
    old, new = size
    masks, labels = torch.rand(3, *old) > 0.5, torch.randint(0, 5, old)
    expected = F.interpolate(masks[None].double(), size=new, mode="bilinear", align_corners=False)[0]
    assert_near(shrink_masks(masks, new, torch.float64), expected, atol=1e-12)
    hot = F.one_hot(labels, 5).permute(2, 0, 1)[:4]  # class 4 is beyond
    expected = F.interpolate(hot[None].double(), size=new, mode="bilinear", align_corners=False)[0]
    assert_near(shrink_labels(labels, 4, new, torch.float64), expected, atol=1e-12)
    assert shrink_masks(masks[:0], new).shape == (0, *new)


def test_dice_by_hand():
    logits = torch.tensor([[[0.0, 0.0, 100.0]]])
    target = torch.tensor([[1.0, 0.0, 0.5]])
    # q = 0.5, 0.5, 1: sum(q t) = 1, sum(q^2) = 1.5, sum(t^2) = 1.25
    assert squared_dice_loss(logits, target).item() == pytest.approx(1 - 2 / 2.75)
    assert squared_dice_loss(torch.full((2, 3, 4), -1e4), torch.zeros(2, 4)).tolist() == [[1.0] * 3] * 2
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(squared_dice_loss, (x, torch.rand(2, 5, dtype=torch.float64)))


def test_radius_by_hand():
    """A square of 10 cells at IoU 0.7: the smallest root is (-28 + sqrt(784 + 336)) / 2 = 2.73."""
    sides = torch.tensor([[10.0, 10.0], [1.0, 1.0], [0.0, 0.0], [4.0, 40.0]], dtype=torch.float64)
    third = (-1.4 * 44 + math.sqrt(1.96 * 44**2 + 16 * 0.21 * 160)) / 2
    assert gaussian_radius(sides, 0.7).tolist() == [2, 0, 0, int(third)]


def test_gaussians_by_hand():
    centers = torch.tensor([[1, 1], [1, 3], [5, 2]])  # the last lies outside
    scores = gaussian_scores(centers, torch.tensor([1, 1, 1]), torch.tensor([0, 0, 1]), 3, (5, 6), 3.0, torch.float64)
    side, corner = math.exp(-0.5), math.exp(-1)  # a deviation of 3 / 3 = 1
    assert scores[0, 1].tolist() == pytest.approx([side, 1, side, 1, side, 0])
    assert scores[0, 0].tolist() == pytest.approx([corner, side, corner, side, corner, 0])
    assert not scores[0, 3:].any() and not scores[2].any()
    assert scores[1, 4].tolist() == pytest.approx([0, corner, side, corner, 0, 0])


def toy_batch(objects=2, labels=True):
    """Two images of 64 x 96 padded pixels, the second smaller."""
    instances, sem_seg = [], []
    for size in ((64, 96), (50, 77)):
        found = Instances(size, gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0, dtype=torch.long))
        if objects:
            boxes = torch.tensor([[4.0, 4.0, 40.0, 30.0], [50.0, 10.0, 51.0, 11.0]])[:objects]
            masks = torch.zeros(objects, *size, dtype=torch.bool)
            for mask, (x0, y0, x1, y1) in zip(masks, boxes.long().tolist()):
                mask[y0:y1, x0:x1] = True
            found = Instances(size, gt_boxes=Boxes(boxes), gt_classes=torch.arange(objects), gt_masks=BitMasks(masks))
        instances.append(found)
        seg = torch.full(size, 255)
        if labels:
            seg[: size[0] // 2], seg[size[0] // 2 :] = 0, 2
        sem_seg.append(seg)
    return instances, sem_seg


SIZES = dict(finest=(16, 24), levels=[(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)], device=CPU)


def toy_targets(center="mass", **options):
    return TargetBuilder(num_things=3, num_stuff=4, scales=SCALES, center=center)(*toy_batch(**options), **SIZES)


def toy_losses(targets, kernels=7, dtype=torch.float32):
    torch.manual_seed(0)
    maps = [
        [torch.randn(2, channels, *size, dtype=dtype).requires_grad_() for size in SIZES["levels"]]
        for channels in (3, 4, 32)
    ]
    encoded = torch.randn(2, 12, 16, 24, dtype=dtype).requires_grad_()
    embeddings = Embeddings().to(dtype)
    criterion = PanopticFCNLosses(num_kernels=kernels, position_weight=1.0, segment_weight=3.0, alpha=0.25, gamma=2.0)
    predictions = Predictions(*maps, encoded)
    losses = criterion(predictions, targets, embeddings.thing_generator, embeddings.stuff_generator)
    sum(losses.values()).backward()
    tensors = [x for of_head in maps for x in of_head] + [encoded, *embeddings.parameters()]
    assert all(x.grad is not None and x.grad.isfinite().all() for x in tensors)
    return {name: loss.item() for name, loss in losses.items()}


def test_an_object_is_on_every_level_whose_range_it_is_in():
    objects = toy_targets().objects
    # 36 x 26 pixels: the root is 30.6; one pixel: 1, an end that is included
    assert [[x.tolist() for x in of_images] for of_images in objects] == [
        [[1], [1]], [[0], [0]], [[0], [0]], [[], []], [[], []]
    ]  # fmt: skip


def test_an_object_without_pixels_at_stride_4_has_its_box_centre():
    instances, sem_seg = toy_batch()
    for found in instances:
        found.gt_masks.tensor[1] = False
    targets = TargetBuilder(num_things=3, num_stuff=4, scales=SCALES)(instances, sem_seg, **SIZES)
    row, column = int(10.5 / 8), int(50.5 / 8)
    assert targets.centers[0][0, 1, row, column] == 1 and targets.centers[0].sum() == 2
    losses = toy_losses(targets)
    assert all(math.isfinite(value) for value in losses.values())
    assert toy_targets("box").centers[1][0, 0, int(17 / 16), int(22 / 16)] == 1


@pytest.mark.parametrize("kernels", [1, 7, 1000])
def test_levels_with_fewer_cells_than_kernels(kernels):
    losses = toy_losses(toy_targets(), kernels=kernels)
    assert 0 < losses["loss_seg_th"] < 3


def test_more_kernels_than_positive_cells_change_nothing():
    targets = toy_targets()
    positive = max(int((m != 0).sum()) for m in targets.masks[0])
    assert toy_losses(targets, kernels=positive) == pytest.approx(toy_losses(targets, kernels=10**6))


@pytest.mark.parametrize(("objects", "labels"), [(0, True), (2, False), (0, False)])
def test_batches_in_which_something_is_missing(objects, labels):
    losses = toy_losses(toy_targets(objects=objects, labels=labels))
    assert (losses["loss_seg_th"] == 0) == (objects == 0)
    assert (losses["loss_seg_st"] == 0) == (not labels)
    assert losses["loss_pos_th"] > 0 and losses["loss_pos_st"] > 0  # all positions are negative
    if not objects:
        with_objects = toy_losses(toy_targets())
        assert losses["loss_pos_th"] > with_objects["loss_pos_th"]  # divided by 1


def test_without_objects_there_may_be_a_field_of_masks_or_none():
    instances, sem_seg = toy_batch(objects=0)
    without = TargetBuilder(num_things=3, num_stuff=4, scales=SCALES)(instances, sem_seg, **SIZES)
    for found in instances:
        found.gt_masks = BitMasks(torch.zeros(0, *found.image_size, dtype=torch.bool))
    with_field = TargetBuilder(num_things=3, num_stuff=4, scales=SCALES)(instances, sem_seg, **SIZES)
    assert [x.shape for x in without.masks] == [x.shape for x in with_field.masks] == [(0, 16, 24)] * 2


def test_polygons_are_drawn():
    instances, sem_seg = toy_batch(objects=1)
    bitmasks = TargetBuilder(num_things=3, num_stuff=4, scales=SCALES)(instances, sem_seg, **SIZES)
    for found in instances:
        found.gt_masks = PolygonMasks([[np.array([4.0, 4, 40, 4, 40, 30, 4, 30])]])
    drawn = TargetBuilder(num_things=3, num_stuff=4, scales=SCALES)(instances, sem_seg, **SIZES)
    assert (drawn.masks[0] - bitmasks.masks[0]).abs().mean() < 0.05


def test_labels_stay_as_they_are():
    """The official code writes its own ignored class into the loader's tensor."""
    instances, sem_seg = toy_batch(labels=False)
    TargetBuilder(num_things=3, num_stuff=4, scales=SCALES)(instances, sem_seg, **SIZES)
    assert all((seg == 255).all() for seg in sem_seg)


def test_region_kernels_are_means_over_the_whole_map():
    kernels = torch.arange(8.0).view(1, 1, 2, 4)
    regions = torch.zeros(1, 2, 2, 4, dtype=torch.bool)
    regions[0, 1, 0, 2:] = True
    assert region_kernels(kernels, regions).flatten().tolist() == [0, (2 + 3) / 8]


def test_half_precision():
    targets = toy_targets()
    exact = toy_losses(targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = toy_losses(targets)
    assert losses == pytest.approx(exact, rel=0.05)


def test_an_unknown_centre():
    with pytest.raises(ValueError, match=r"MODEL\.PANOPTIC_FCN\.CENTER: unknown 'middle'; allowed: mass, box"):
        TargetBuilder(num_things=3, num_stuff=4, scales=SCALES, center="middle")


def test_memory_does_not_grow_with_the_number_of_objects():
    """What autograd keeps between the passes has no map of each kernel."""
    kept = {}
    embeddings = Embeddings()
    for count in (5, 40):
        sizes = []
        size = (32, 48)
        levels = [(s // 2 or 1, t // 2 or 1) for s, t in (size,)]
        channels = embeddings.thing_generator.embed.in_channels
        encoded = torch.randn(1, embeddings.thing_generator.embed.out_channels, *size, requires_grad=True)
        kernels = torch.randn(1, channels, *levels[0], requires_grad=True)
        found = torch.zeros(count, dtype=torch.long)
        masks = torch.rand(count, *size)
        index = torch.arange(count)
        criterion = losses_of(3, chunk_pixels=1)
        vectors = embeddings.thing_generator(kernels[0].flatten(1)[:, found].T)[:, None].expand(-1, 3, -1)

        def pack(t, sizes=sizes):
            sizes.append((t.data_ptr(), t.numel()))
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            losses = criterion._dice(vectors, encoded[0], masks, index)
        kept[count] = sum(n for place, n in set(sizes) if place != masks.data_ptr())
        losses.sum().backward()
    assert kept[40] - kept[5] < 32 * 48  # less than one map more
