"""Errors and changes against counts by hand; the flow of SFNet as it is recorded and laid out."""

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog

from fapn_d2.visualization.errors import (
    IMPROVED,
    STILL_WRONG,
    UNLABELLED,
    WORSENED,
    find_change,
    find_errors,
    paint_change,
    paint_errors,
)
from fapn_d2.visualization.recording import Alignment, recording
from fapn_d2.visualization.segments import Segments, from_prediction
from fapn_d2.visualization.view import alignment_row, field_row
from tests.toys.pyramids import toy_maps, toy_pyramid

ROAD, SKY = (10, 20, 30), (40, 50, 60)


def segments(text):
    """Rows of letters: r road, s sky, c and d two cars, dot nothing."""
    rows = np.array([list(row) for row in text.split()])
    found = Segments(np.zeros(rows.shape, np.int32))
    for letter, name, color in (("s", "sky", SKY), ("r", "road", ROAD), ("c", "car", ROAD), ("d", "car", ROAD)):
        found.add(rows == letter, name, color, is_thing=name == "car")
    return found


TRUTH = segments("rrss ..cc")
BEFORE = find_errors(segments("rsss rrdd"), TRUTH)  # which car it is does not matter
AFTER = find_errors(segments("rrsr ..d."), TRUTH)


def test_errors_are_counted_where_there_is_ground_truth():
    assert BEFORE.wrong.astype(int).tolist() == [[0, 1, 0, 0], [0, 0, 0, 0]]
    assert AFTER.wrong.astype(int).tolist() == [[0, 0, 0, 1], [0, 0, 0, 1]]
    assert BEFORE.accuracy == pytest.approx(100 * 5 / 6) and AFTER.accuracy == pytest.approx(100 * 4 / 6)
    assert np.isnan(find_errors(segments("rs"), segments("..")).accuracy)
    with pytest.raises(ValueError, match=r"the prediction has \(1, 2\) pixels, the ground truth \(2, 4\)"):
        find_errors(segments("rs"), TRUTH)


def test_change_between_two_networks():
    change = find_change(BEFORE, AFTER)
    assert change.percent(change.improved) == pytest.approx(100 / 6)
    assert change.percent(change.worsened) == pytest.approx(200 / 6)
    assert change.percent(change.still_wrong) == 0
    assert find_change(AFTER, AFTER).still_wrong.sum() == 2
    picture = paint_change(np.full((2, 4, 3), 100, np.uint8), change, scale=2)
    assert picture.shape == (4, 8, 3) and picture[0, 0].tolist() == [40, 40, 40]
    assert picture[0, 2].tolist() == list(IMPROVED) and picture[3, 7].tolist() == list(WORSENED)
    both = paint_change(np.zeros((2, 4, 3), np.uint8), find_change(AFTER, AFTER))
    assert both[0, 3].tolist() == list(STILL_WRONG)
    with pytest.raises(ValueError, match=r"the image has \(2, 2\) pixels, the errors \(2, 4\)"):
        paint_change(np.zeros((2, 2, 3), np.uint8), change)


def test_wrong_pixels_take_the_color_that_they_should_have():
    picture = paint_errors(BEFORE, TRUTH)
    expected = [[(0, 0, 0), ROAD, (0, 0, 0), (0, 0, 0)], [UNLABELLED, UNLABELLED, (0, 0, 0), (0, 0, 0)]]
    assert picture.tolist() == np.array(expected).tolist()
    assert paint_errors(BEFORE, TRUTH, scale=3).shape == (6, 12, 3)


def test_a_class_that_the_data_set_does_not_name_is_wrong():
    MetadataCatalog.get("errors_test_stuff").set(stuff_classes=["road"])
    found = from_prediction({"sem_seg": torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])}, "errors_test_stuff")
    assert find_errors(found, segments("rr")).wrong.tolist() == [[False, True]]


def test_recorded_flow_is_seen_against_a_warp_without_flow():
    pyramid = toy_pyramid("build_resnet_sfnet_backbone").eval()
    with torch.no_grad(), recording(pyramid) as records:
        pyramid(toy_maps())
        assert all(r.field == "flow" and r.displacement.abs().max() > 0 for r in records)
        for align in (pyramid.fpn_align2, pyramid.fpn_align3, pyramid.fpn_align4):
            torch.nn.init.zeros_(align.flow.weight)
        pyramid(toy_maps())
        for r in records:
            torch.testing.assert_close(r.before, r.after)
            assert (r.displacement == 0).all()


def test_fields_of_all_levels_in_one_row():
    image = np.full((32, 48, 3), 90, np.uint8)

    def record(stage, displacement):
        size = 32 >> stage, 48 >> stage
        maps = torch.rand(2, 3, *size)
        moved = None if displacement is None else torch.full((2, *size), float(displacement))
        return Alignment(stage, 1 << stage, *maps, displacement=moved, field="flow")

    records = [record(3, 4.0), record(2, 0.5)]
    captions = [p.caption for p in field_row(records, image, scale=2)]
    assert captions[:2] == ["P4 to P3, full colour at 5.7 px", "P3 to P2, full colour at 0.71 px"]
    # Arrows of 1.41 px, 8 px apart, are to reach 0.8 of the way: 4.5 times as long, in whole numbers.
    assert captions[2] == "P3 to P2, 5 times as long" and len(captions) == 3
    row = alignment_row(records[0], image, scale=2)
    assert [p.caption.split(",")[0] for p in row] == ["P4 to P3 before", "P4 to P3 after", "flow", "flow"]
    assert row[2].pixels[-1, 0].tolist() == [255, int(255 * 54 / 8 / 15), 0]  # down and to the right: an eighth round
    assert field_row([record(2, None)], image, scale=2) == []
