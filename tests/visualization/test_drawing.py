"""Colours, segments, windows, displacements: drawn values against hand numbers."""

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image

from fapn_d2.visualization.alignment import draw_alignment, reduce_channels
from fapn_d2.visualization.color import common_range, flow_colors, flow_wheel, heat, shade, to_hex
from fapn_d2.visualization.paint import (
    NOTHING,
    draw_arrows,
    enlarge_labels,
    frame,
    most_different_window,
    outlines,
    paint_segments,
)
from fapn_d2.visualization.recording import Alignment, pyramid_of, recording
from fapn_d2.visualization.segments import Segments, annotation_mask, from_labels, from_prediction
from fapn_d2.visualization.sheet import Picture, sheet
from tests.toys.pyramids import toy_maps, toy_pyramid

RED, BLUE = (200, 0, 0), (0, 0, 200)


@pytest.fixture(scope="module")
def dataset():
    name = "drawing_test_panoptic"
    MetadataCatalog.get(name).set(
        thing_classes=["cat", "dog"], thing_colors=[RED, BLUE], stuff_classes=["things", "sky"]
    )
    return name


def test_heat_and_its_range():
    low, high = common_range(np.array([[0.0, 10.0]]), np.array([[-10.0]]), percent=0)
    assert (low, high) == (-10, 10)
    picture = heat(np.array([[-99.0, -10.0, 10.0, 99.0]]), low, high)
    assert (picture[0, 0] == picture[0, 1]).all() and (picture[0, 2] == picture[0, 3]).all()
    assert picture[0, 0].sum() < 20 and picture[0, 2].sum() > 600
    constant = heat(np.zeros((2, 2)), 0, 0)
    assert constant.dtype == np.uint8 and (constant == constant[0, 0]).all()


def test_flow_colors_point_in_hue_and_fade_to_white():
    field = np.zeros((2, 1, 6), np.float32)
    field[:, 0, 1] = 0, 2  # to the right
    field[:, 0, 2] = 0, -2  # to the left
    field[:, 0, 3] = 0, 20  # beyond the scale
    field[:, 0, 4] = 2, 0  # down
    field[:, 0, 5] = -1, 0  # up, half as far
    white, right, left, beyond, down, up = flow_colors(field, greatest=2.0)[0].astype(int)
    assert (white == 255).all()
    assert right.tolist() == [255, 0, 0] and (beyond == right).all()
    # torchvision's circle has 55 colours, number 0 to the right and number 54 just above it, so that a quarter is 13.5
    # steps: 15 colours from red to yellow, 6 to green, 4 to cyan, 11 to blue and 13 to magenta.
    assert left.tolist() == pytest.approx([0, 255 * (1 - 2 / 11), 255], abs=1)  # number 27
    assert down.tolist() == pytest.approx([255, 255 * 13.5 / 15, 0], abs=1)
    assert up.tolist() == pytest.approx([255 - (255 - 255 * 4.5 / 13) / 2, 127.5, 255], abs=1)  # number 40.5
    small = flow_colors(field[:, :, :3] / 1000, greatest=2.0)[0]  # without a vector of full length: nearly white
    assert (small >= 254).all()
    wheel = flow_wheel(41)
    assert (wheel[20, 20] > 240).all() and (wheel[0, 0] == 40).all() and wheel[20, 38, 0] > wheel[20, 38, 1] + 150


def test_shades_of_one_class_differ():
    tones = [shade(RED, i) for i in range(5)]
    assert tones[0] == RED and len(set(tones)) == 5
    assert all(r > g and r > b for r, g, b in tones)
    assert to_hex((255, 0, 16)) == "#ff0010"


def test_prediction_of_a_panoptic_network(dataset):
    seg = torch.tensor([[1, 1, 2], [0, 3, 3]])
    infos = [
        {"id": 1, "isthing": True, "category_id": 0},
        {"id": 2, "isthing": True, "category_id": 0},
        {"id": 3, "isthing": False, "category_id": 1},
    ]
    found = from_prediction({"panoptic_seg": (seg, infos)}, dataset)
    assert found.labels.tolist() == seg.tolist()
    assert [s.name for s in found.segments.values()] == ["cat", "cat", "sky"]
    assert found.segments[1].color == RED != found.segments[2].color
    assert found.segments[2].class_color == RED


def test_prediction_of_instances_over_regions(dataset):
    logits = torch.zeros(2, 2, 3)
    logits[1, 0] = 1.0  # the first row is sky, the second "things", which are drawn one by one
    instances = Instances((2, 3))
    instances.pred_masks = torch.zeros(3, 2, 3, dtype=torch.bool)
    instances.pred_masks[0, :, 0] = True
    instances.pred_masks[1, 1, :] = True
    instances.pred_masks[2] = True
    instances.pred_classes = torch.tensor([0, 1, 1])
    instances.scores = torch.tensor([0.9, 0.6, 0.1])  # the last one is too unsure
    found = from_prediction({"sem_seg": logits, "instances": instances}, dataset)
    names = [[found.segments[v].name if v else "" for v in row] for row in found.labels.tolist()]
    assert names == [["cat", "sky", "sky"], ["cat", "dog", "dog"]]
    with pytest.raises(ValueError, match="the network gives \\['proposals'\\]"):
        from_prediction({"proposals": None}, dataset)
    alone = from_prediction({"instances": instances}, dataset)
    assert alone.extent == "objects" and [s.label for s in alone.segments.values()] == ["dog 60%", "cat 90%"]


def test_prediction_of_boxes_alone(dataset):
    instances = Instances((20, 30))
    instances.pred_boxes = Boxes([[2.0, 3.0, 12.0, 15.0], [20.0, 1.0, 28.0, 9.0], [0.0, 0.0, 1.0, 1.0]])
    instances.pred_classes = torch.tensor([1, 0, 0])
    instances.scores = torch.tensor([0.9, 0.75, 0.1])
    found = from_prediction({"instances": instances}, dataset)
    assert found.extent == "boxes" and not found.labels.any()
    assert [(s.label, s.box) for s in found.segments.values()] == [
        ("cat 75%", (20, 1, 28, 9)),
        ("dog 90%", (2, 3, 12, 15)),
    ]
    gray = np.full((20, 30, 3), 100, np.uint8)
    picture = paint_segments(gray, found, scale=10)
    assert picture.shape == (200, 300, 3) and picture[100, 70].tolist() == [100, 100, 100]  # not darkened
    for y, x, channel in ((100, 20, 2), (30, 70, 2), (50, 280, 0), (10, 240, 0)):  # sides: dogs are blue, cats red
        assert picture[y, x, channel] > picture[y, x, 1] + 40
    named = paint_segments(gray, found, scale=10, labels=True)
    changed = (named != picture).any(axis=2)
    assert changed.sum() > 200 and named[changed].max() > 180  # letters on dark ground, near the boxes' corners
    assert not changed[170:].any()


def test_an_own_data_set_without_names_is_not_black(tmp_path):
    """Nothing is registered: classes have numbers for names, and colours; only what is ignored stays empty."""
    logits = torch.zeros(3, 2, 3)
    logits[2, 0] = logits[1, 1] = 1.0
    found = from_prediction({"sem_seg": logits}, "never_registered")
    assert [s.name for s in found.segments.values()] == ["class 1", "class 2"] and found.labels.min() > 0
    assert len({s.color for s in found.segments.values()}) == 2
    assert paint_segments(np.full((2, 3, 3), 100, np.uint8), found, scale=1, strength=1.0).max(axis=2).min() > 100
    path = tmp_path / "label.png"
    Image.fromarray(np.array([[0, 2, 255], [1, 9, 2]], np.uint8)).save(path)
    record = {"sem_seg_file_name": str(path)}
    truth = from_labels(record, "never_registered")
    names = [[truth.segments[v].name if v else "" for v in row] for row in truth.labels.tolist()]
    assert names == [["class 0", "class 2", ""], ["class 1", "class 9", "class 2"]]
    assert from_labels(record, "never_registered", ignore_value=9).labels[1, 1] == 0
    instances = Instances((2, 3), pred_masks=torch.ones(1, 2, 3, dtype=torch.bool), scores=torch.ones(1))
    instances.pred_classes = torch.tensor([100])
    assert from_prediction({"instances": instances}, "never_registered").segments[1].name == "class 100"


def test_names_of_regions_are_written_on_them(dataset):
    found = Segments(np.zeros((60, 80), np.int32))
    found.add(np.ones((60, 80), bool), "sky", BLUE, is_thing=False)
    gray = np.full((60, 80, 3), 100, np.uint8)
    plain, named = (paint_segments(gray, found, scale=2, labels=labels) for labels in (False, True))
    rows, columns = np.nonzero((plain != named).any(axis=2))
    assert named.shape == (120, 160, 3) and 55 < rows.mean() < 80 and abs(columns.mean() - 80) < 4


def test_annotations_without_masks(dataset):
    box = {"category_id": 1, "bbox": [2.0, 1.0, 4.0, 3.0], "bbox_mode": BoxMode.XYWH_ABS}
    truth = from_labels({"annotations": [box], "height": 8, "width": 9}, dataset)
    assert truth.extent == "boxes" and truth.segments[1].box == (2, 1, 6, 4)


def test_labels_of_a_record(dataset, tmp_path):
    path = tmp_path / "label.png"
    Image.fromarray(np.array([[1, 1, 1], [0, 255, 1]], np.uint8)).save(path)
    square = {"category_id": 1, "segmentation": [[0.0, 1.0, 1.0, 1.0, 1.0, 2.0, 0.0, 2.0]]}
    record = {"sem_seg_file_name": str(path), "annotations": [square], "height": 2, "width": 3}
    found = from_labels(record, dataset)
    names = [[found.segments[v].name if v else "" for v in row] for row in found.labels.tolist()]
    assert names == [["sky", "sky", "sky"], ["dog", "", "sky"]]
    with pytest.raises(ValueError, match="no labels"):
        from_labels({"file_name": "x.jpg"}, dataset)
    counts = {"segmentation": {"size": [2, 3], "counts": [1, 2, 3]}}  # column by column
    assert annotation_mask(counts, (2, 3)).tolist() == [[False, True, False], [True, False, False]]


def test_painted_colors_follow_the_segments(dataset):
    found = Segments(np.zeros((40, 40), np.int32))
    left, top = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    left[:, :20], top[:10] = True, True
    found.add(left, "sky", BLUE, is_thing=False)
    found.add(top, "cat", RED, is_thing=True)
    found.add(np.zeros((40, 40), bool), "dog", RED, is_thing=True)
    assert len(found.segments) == 2
    gray = np.full((40, 40, 3), 100, np.uint8)
    picture = paint_segments(gray, found, scale=2, strength=1.0).astype(int)
    assert picture.shape == (80, 80, 3)
    assert picture[5, 5].tolist() == list(RED)
    assert picture[60, 10].tolist() == [28, 28, 172]  # regions are tinted less: 28% of gray 100
    assert picture[60, 70].tolist() == [round(20 + 0.8 * c) for c in NOTHING]
    assert picture[60, 40].min() > 180  # the outline between them
    with pytest.raises(ValueError, match=r"the image has \(4, 4\) pixels, its segments \(40, 40\)"):
        paint_segments(gray[:4, :4], found)


def test_enlarged_labels_keep_thin_ones():
    labels = np.zeros((8, 8), np.int32)
    labels[:, 3] = 7
    big = enlarge_labels(labels, 4)
    assert big.shape == (32, 32) and set(np.unique(big)) == {0, 7}
    assert (big[:, 14] == 7).all() and (big[:, 2] == 0).all()
    assert enlarge_labels(labels, 1) is labels
    line = outlines(labels)
    assert line[4, 3] > 0.6 and line[4, 4] > 0.6 and line[4, 7] == 0


def test_window_of_most_differences():
    a, b = np.zeros((20, 30), int), np.zeros((20, 30), int)
    b[12:15, 20:24] = 1
    y0, x0, y1, x1 = most_different_window(a, b, (6, 8))
    assert (y1 - y0, x1 - x0) == (6, 8) and y0 <= 12 and y1 >= 15 and x0 <= 20 and x1 >= 24
    assert most_different_window(a, b, (50, 50)) == (0, 0, 20, 30)
    framed = frame(np.zeros((20, 30, 3), np.uint8), (y0, x0, y1, x1))
    assert framed[y0, x0 + 3].min() > 200 and framed[0, 0].max() == 0


def test_arrows_end_where_samples_come_from():
    picture = np.full((60, 60, 3), 100, np.uint8)
    field = np.zeros((2, 60, 60), np.float32)
    still = draw_arrows(picture, field, step=60)
    assert still[30, 30].min() > 200 and (still[30, 40:] == 100).all()
    field[1] = 15
    moved = draw_arrows(picture, field, step=60)
    assert moved[30, 40].min() > 200 and (moved[30, 50:] == 100).all() and (moved[:20] == 100).all()
    assert (picture == 100).all()


def test_recording_shows_what_the_alignment_computes():
    pyramid = toy_pyramid("build_resnet_fapn_backbone").eval()
    torch.nn.init.normal_(pyramid.fpn_align2.offset_mask.weight, std=0.05)
    maps = toy_maps(batch=2)
    with torch.no_grad(), recording(pyramid) as records:
        pyramid(maps)
        assert [r.stage for r in records] == [4, 3, 2] and [r.stride for r in records] == [16, 8, 4]
        pyramid(maps)
        assert len(records) == 3  # each pass starts anew
        last = records[-1]
        fine = pyramid.fpn_lateral2(maps["res2"])
        inputs = {}
        hook = pyramid.fpn_align2.register_forward_pre_hook(lambda _, args: inputs.update(coarse=args[1]))
        pyramid(maps)
        hook.remove()
        torch.testing.assert_close(last.before, pyramid.fpn_align2.upsample(fine, inputs["coarse"])[0])
        torch.testing.assert_close(last.after, pyramid.fpn_align2(fine, inputs["coarse"])[0])
    assert last.title == "P3 to P2" and last.displacement.shape == (2, 16, 24)
    assert last.displacement.abs().max() > 0 and records[0].displacement.abs().max() == 0
    hooks = [h for m in pyramid.modules() for h in (m._forward_hooks, m._forward_pre_hooks)]
    assert not any(hooks)  # left as it was


def test_recording_a_pyramid_that_moves_nothing():
    pyramid = toy_pyramid("build_pyramid_backbone", PRESET="fpn").eval()
    with torch.no_grad(), recording(pyramid) as records:
        pyramid(toy_maps())
    assert all(r.displacement is None and (r.before == r.after).all() for r in records)
    with pytest.raises(ValueError, match="Linear has no pyramid of fapn_d2"):
        pyramid_of(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="no alignment"):
        pyramid_of(toy_pyramid("build_pyramid_backbone", PRESET="fpn", MERGE="lateral_only"))


@pytest.mark.parametrize("moves", [True, False])
def test_drawn_alignment_covers_the_image(moves):
    # The network padded 20 x 30 to 32 x 32: what lies beyond the image is not drawn.
    before, after = torch.zeros(4, 8, 8), torch.zeros(4, 8, 8)
    before[:, :4], after[:, 2] = 1.0, 2.0
    displacement = torch.full((2, 8, 8), 4.0) if moves else None
    record = Alignment(stage=2, stride=4, before=before, after=after, displacement=displacement)
    drawn = draw_alignment(record, np.full((20, 30, 3), 200, np.uint8), scale=2)
    assert reduce_channels(before)[0, 0] == 1
    for picture in (drawn.before, drawn.after, drawn.colors, drawn.arrows):
        assert picture is None or picture.shape == (40, 60, 3)
    low, high = drawn.heat_range
    assert low == 0 and high == pytest.approx(2.0)
    assert drawn.before[0, 0].astype(int).sum() < drawn.after[20, 0].astype(int).sum()
    assert (drawn.colors is not None) == (drawn.arrows is not None) == moves
    assert drawn.greatest == pytest.approx(32**0.5 if moves else 0)


def test_sheet_has_every_picture():
    red, blue = (np.full((30, 60, 3), c, np.uint8) for c in (RED, BLUE))
    page = sheet([[Picture(red, "one"), Picture(blue, "two")], [Picture(blue, "three")]], width=120, gap=10)
    assert page.shape[1] == 2 * 120 + 30 and (page[:5] == 255).all()
    assert page[10 + 30, 70].tolist() == list(RED) and page[10 + 30, 200].tolist() == list(BLUE)
    with pytest.raises(ValueError, match="at least one picture"):
        sheet([])
