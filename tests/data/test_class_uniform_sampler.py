"""Rare classes in the samples as often as others, every crop with its point, one order for all ranks."""

import itertools
import logging

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.utils import comm
from PIL import Image

from fapn_d2.data import build_train_loader
from fapn_d2.data.augmentation import build_augmentations
from fapn_d2.data.class_uniform_sampler import ClassUniformSampler, RecordsWithPoints
from fapn_d2.data.cropping import PointInput, RandomCropAroundPoint

RARE = 3


@pytest.fixture
def rare(tmp_path):
    """Twenty images of 60x80 of classes 0 to 2; class 3 is 4x4 pixels in one of them, class 4 nowhere; 255: void."""
    generator = np.random.default_rng(0)
    records = []
    for n in range(20):
        labels = np.kron(generator.integers(0, 3, (3, 4)), np.ones((20, 20))).astype(np.uint8)
        labels[:3] = 255
        if n == 7:
            labels[30:34, 70:74] = RARE
        paths = {"file_name": str(tmp_path / f"{n}.jpg"), "sem_seg_file_name": str(tmp_path / f"{n}.png")}
        Image.fromarray(labels).save(paths["sem_seg_file_name"])
        Image.fromarray(generator.integers(0, 255, (60, 80, 3)).astype(np.uint8)).save(paths["file_name"])
        records.append({**paths, "height": 60, "width": 80})
    DatasetCatalog.register("rare", lambda: [dict(record) for record in records])
    yield "rare"
    DatasetCatalog.remove("rare")
    MetadataCatalog.pop("rare", None)


@pytest.fixture
def cfg(cfg, rare, tmp_path):
    cfg.DATASETS.TRAIN = (rare,)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 5, 255
    cfg.INPUT.SCALE_CROP.ENABLED, cfg.INPUT.SCALE_CROP.SIZE = True, (24, 32)
    cfg.INPUT.SCALE_CROP.SCALES = (1.0, 2.0)
    cfg.DATALOADER.SAMPLER_TRAIN = "ClassUniformSampler"
    cfg.DATALOADER.CLASS_UNIFORM.TILE = 32
    cfg.DATALOADER.ASPECT_RATIO_GROUPING, cfg.DATALOADER.NUM_WORKERS = False, 0
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.SOLVER.IMS_PER_BATCH = 8
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    return cfg


def share_with_rare(cfg, batches=25):
    np.random.seed(0)
    taken = list(itertools.chain(*itertools.islice(build_train_loader(cfg), batches)))
    return np.mean([bool((sample["sem_seg"] == RARE).any()) for sample in taken]), taken


@pytest.mark.parametrize("place", ["around", "centred"])
def test_a_rare_class_is_in_its_part_of_the_crops(cfg, place, caplog):
    cfg.DATALOADER.CLASS_UNIFORM.PLACE = place
    with caplog.at_level(logging.INFO):
        share, taken = share_with_rare(cfg)
    # Half of the crops are of points, a fourth of those (four classes occur) of the rare class; the others meet it in
    # one of twenty images at best.
    assert 0.125 - 0.01 <= share <= 0.125 + 0.03
    assert all(sample["image"].shape == (3, 24, 32) and "class_point" not in sample for sample in taken)
    assert "have no pixel of the classes [4]; the other classes are shown more often" in caplog.text
    cfg.DATALOADER.CLASS_UNIFORM.FRACTION = 1.0
    assert 0.25 <= share_with_rare(cfg)[0] <= 0.28
    cfg.DATALOADER.SAMPLER_TRAIN = "TrainingSampler"
    assert share_with_rare(cfg)[0] < 0.03


def test_every_crop_of_a_point_shows_its_class(cfg):
    """Small crops of images that are enlarged; also through Detectron2's resize and crop."""
    cfg.DATALOADER.CLASS_UNIFORM.FRACTION = 1.0
    cfg.INPUT.SCALE_CROP.SIZE = (5, 7)
    assert share_with_rare(cfg)[0] == pytest.approx(0.25)  # four classes in each round, 50 rounds
    cfg.INPUT.SCALE_CROP.ENABLED = False
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (60, 130), 200
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = True, "relative_range", [0.1, 0.1]
    assert share_with_rare(cfg)[0] >= 0.25


@pytest.mark.parametrize("place", ["around", "centred"])
@pytest.mark.parametrize("scales", [(0.3, 0.5), (0.9, 2.0)])
def test_the_point_is_in_the_crop_whatever_the_scale(cfg, place, scales):
    """A lone bright pixel survives smoothing as a brighter patch, at the place that the input says."""
    cfg.DATALOADER.CLASS_UNIFORM.PLACE = place
    cfg.INPUT.SCALE_CROP.SCALES, cfg.INPUT.SCALE_CROP.SIZE = scales, (20, 26)
    augmentations = T.AugmentationList(build_augmentations(cfg, True))
    np.random.seed(1)
    for _ in range(60):
        y, x = np.random.randint(60), np.random.randint(80)
        image = np.zeros((60, 80, 3), np.uint8)
        image[y, x] = 255
        sample = PointInput(image, sem_seg=np.zeros((60, 80), np.uint8), class_point=(y, x))
        augmentations(sample)
        row, column = sample.class_point
        assert sample.image.shape[:2] == (20, 26) and 0 <= row < 20 and 0 <= column < 26
        light = sample.image[..., 0] * (sample.sem_seg == 0)  # the padding has a colour of its own
        brightest = np.unravel_index(light.argmax(), light.shape)
        assert max(abs(brightest[0] - row), abs(brightest[1] - column)) <= 1


def test_where_crops_lie():
    """All places that hold the point, equally often; or the point in the middle, as far as the image goes."""
    image, labels = np.zeros((10, 30, 3), np.uint8), np.zeros((10, 30), np.uint8)

    def starts(point, times, **more):
        more = {"centred": False, "max_area": 1.0, "ignore_value": 255} | more
        crop = RandomCropAroundPoint("absolute", (10, 5), **more)
        return [crop.get_transform(image, labels, point).x0 for _ in range(times)]

    described = repr(RandomCropAroundPoint("absolute", (10, 5), centred=True, max_area=0.9, ignore_value=255))
    assert "RandomCropAroundPoint(kind='absolute', size=(10, 5), centred=True" in described
    counts = np.bincount(starts((4, 12), 1000), minlength=13)
    assert counts[:8].sum() == 0 and counts[8:].min() > 150 and len(counts) == 13
    assert set(starts((4, 1), 100)) == {0, 1} and set(starts((9, 29), 20)) == {25}
    assert [starts((4, x), 1, centred=True)[0] for x in (0, 2, 12, 28)] == [0, 0, 10, 25]
    assert set(starts(None, 500)) == set(range(26))
    labels[:, 16:] = 1  # a crop of one class alone is tried again
    assert set(starts((4, 16), 100, max_area=0.9)) == {12, 13, 14, 15}
    assert set(starts((4, 2), 20, max_area=0.9)) == {0, 1, 2}  # where every crop is of one class, any


def test_images_and_points_of_a_class_take_turns():
    classes = [0] * 10 + [1] * 2 + [5] * 3
    taken = list(itertools.islice(ClassUniformSampler(7, classes, fraction=0.25, seed=1), 12 * 20))
    for n in range(0, 240, 12):  # every round has one point of each class and nine images
        assert sum(i >= 7 for i in taken[n : n + 12]) == 3
        so_far = np.bincount(taken[: n + 12], minlength=22)
        for low, high in ((0, 7), (7, 17), (17, 19), (19, 22)):
            counts = so_far[low:high]
            assert counts.max() - counts.min() <= 1
            assert counts.sum() == (n // 12 + 1) * (9 if low == 0 else 1)
    assert taken[:12] != taken[12:24]


@pytest.mark.parametrize(("fraction", "points"), [(1.0, 3000), (0.9, 2700), (0.7, 2100), (0.01, 30)])
def test_the_fraction_holds(fraction, points):
    taken = itertools.islice(ClassUniformSampler(50, [0, 1, 2], fraction=fraction, seed=1), 3000)
    assert sum(i >= 50 for i in taken) == pytest.approx(points, abs=3)


def test_the_seed_decides_and_ranks_share_one_order(monkeypatch):
    classes = list(range(6)) * 5

    def order(seed, count):
        return list(itertools.islice(ClassUniformSampler(40, classes, seed=seed), count))

    together = order(3, 200)
    assert together == order(3, 200) != order(4, 200)
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(comm, "get_world_size", lambda: 2)
        assert order(3, 100) == together[rank::2]


def test_records_with_points():
    records = [{"file_name": "a"}, {"file_name": "b"}]
    points = [[[0, 1, 2], [255, 0, 0]], [[9, 4, 4], [2, 5, 6], [1, 7, 8]]]
    dataset = RecordsWithPoints(records, points, num_classes=3, ignore_value=1)
    assert len(dataset) == 4 and dataset.num_images == 2 and dataset.classes.tolist() == [0, 2]
    assert [dataset[i] for i in range(4)] == [
        *records,
        {"file_name": "a", "class_point": (1, 2)},
        {"file_name": "b", "class_point": (5, 6)},
    ]


def test_bad_images_are_left_out(cfg, caplog):
    (broken,) = (r["sem_seg_file_name"] for r in DatasetCatalog.get("rare") if r["file_name"].endswith("/7.jpg"))
    with open(broken, "wb") as file:
        file.write(b"no image")
    with pytest.raises(ValueError, match=r"7\.png cannot be read"):
        build_train_loader(cfg)
    cfg.INPUT.MAX_BAD_IMAGES = 1
    assert share_with_rare(cfg)[0] == 0 and "have no pixel of the classes [3, 4]" in caplog.text


def test_errors(cfg, tmp_path):
    for fraction in (0.0, 1.5):
        cfg.DATALOADER.CLASS_UNIFORM.FRACTION = fraction
        with pytest.raises(ValueError, match=rf"CLASS_UNIFORM\.FRACTION must be above 0 and at most 1, got {fraction}"):
            build_train_loader(cfg)
    cfg.DATALOADER.CLASS_UNIFORM.FRACTION = 0.5
    cfg.DATALOADER.CLASS_UNIFORM.PLACE = "near"
    with pytest.raises(ValueError, match=r'CLASS_UNIFORM\.PLACE is "near"; allowed are "around" and "centred"'):
        build_train_loader(cfg)
    with pytest.raises(ValueError, match="found no labelled pixel in the training data"):
        ClassUniformSampler(3, [], seed=0)
