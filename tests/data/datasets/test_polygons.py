import numpy as np
import pycocotools.mask as coco_mask
import pytest

from fapn_d2.data.datasets.shapes.polygons import mask_to_polygons


def _rasterise(polygons, h, w):
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, h, w))).astype(bool)


def test_one_pixel_is_its_square():
    mask = np.zeros((3, 4), bool)
    mask[1, 2] = True
    (polygon,) = mask_to_polygons(mask)
    assert {tuple(p) for p in np.reshape(polygon, (-1, 2))} == {(2, 1), (3, 1), (3, 2), (2, 2)}


def test_a_rectangle_has_four_corners():
    mask = np.zeros((8, 9), bool)
    mask[2:6, 1:8] = True
    assert [len(p) for p in mask_to_polygons(mask)] == [8]


def test_a_ring_is_cut_into_two_pieces():
    mask = np.zeros((9, 9), bool)
    mask[1:8, 1:8] = True
    mask[3:6, 3:6] = False
    polygons = mask_to_polygons(mask)
    assert len(polygons) == 2
    assert (_rasterise(polygons, 9, 9) == mask).all()


def test_nothing_gives_no_polygon():
    assert mask_to_polygons(np.zeros((4, 4), bool)) == []


@pytest.mark.parametrize("density", [0.2, 0.5, 0.8])
def test_random_masks_come_back_exactly(density):
    rng = np.random.RandomState(0)
    for _ in range(60):
        h, w = rng.randint(1, 24, 2)
        mask = rng.rand(h, w) < density
        polygons = mask_to_polygons(mask)
        assert all(len(p) >= 8 for p in polygons)
        if polygons:
            assert (_rasterise(polygons, h, w) == mask).all()
        else:
            assert not mask.any()
