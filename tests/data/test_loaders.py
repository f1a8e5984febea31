import itertools
import logging

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from fapn_d2.data import build_test_loader, build_train_loader
from fapn_d2.data.bad_images import SkipBadImages
from fapn_d2.data.reading import BadImageError


@pytest.fixture
def cfg(cfg, tmp_path):
    cfg.DATASETS.TRAIN = ("shapes_train_panoptic_separated",)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 4
    cfg.INPUT.MIN_SIZE_TRAIN = cfg.INPUT.MIN_SIZE_TEST = 96
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    return cfg


@pytest.fixture
def damaged(shapes):
    """A data set of the six training images of shapes, the first and third of which do not exist."""

    def load():
        records = DatasetCatalog.get("shapes_train")
        for i in (0, 2):
            records[i]["file_name"] = f"lost{i}.jpg"
        return records

    DatasetCatalog.register("damaged", load)
    yield "damaged"
    DatasetCatalog.remove("damaged")
    MetadataCatalog.pop("damaged", None)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_batches(cfg, shapes, workers):
    cfg.DATALOADER.NUM_WORKERS = workers
    batches = list(itertools.islice(build_train_loader(cfg), 6))
    assert [len(b) for b in batches] == [2] * 6
    for sample in itertools.chain(*batches):
        assert sample["image"].shape == (3, 96, 128) and sample["sem_seg"].shape == (96, 128)
        assert sample["instances"].has("gt_boxes")


def test_each_test_image_once(cfg, shapes):
    loader = build_test_loader(cfg, "shapes_val")
    assert [b[0]["image_id"] for b in loader] == [1, 2, 3]


def test_images_without_objects_are_kept_or_left_out_as_told(cfg, shapes):
    def load():
        records = DatasetCatalog.get("shapes_train")
        records[0]["annotations"] = []
        return records

    DatasetCatalog.register("one_empty", load)
    try:
        cfg.DATASETS.TRAIN = ("one_empty",)
        for keep in (False, True):
            cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = not keep
            seen = {s["image_id"] for b in itertools.islice(build_train_loader(cfg), 12) for s in b}
            assert (1 in seen) == keep
    finally:
        DatasetCatalog.remove("one_empty")
        MetadataCatalog.pop("one_empty", None)


def test_by_default_the_first_bad_image_stops(cfg, damaged):
    cfg.DATASETS.TRAIN = (damaged,)
    with pytest.raises(FileNotFoundError, match=r"lost\d.jpg does not exist"):
        list(itertools.islice(build_train_loader(cfg), 9))


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_up_to_the_limit_are_left_out_and_listed(cfg, damaged, workers, tmp_path):
    cfg.DATASETS.TRAIN = (damaged,)
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.INPUT.MAX_BAD_IMAGES = 2
    batches = list(itertools.islice(build_train_loader(cfg), 12))
    assert {s["image_id"] for b in batches for s in b} == {2, 4, 5, 6}
    listed = (tmp_path / "output/bad_images.txt").read_text().splitlines()
    assert {line.split("\t")[0] for line in listed} == {"lost0.jpg", "lost2.jpg"}
    assert all("does not exist" in line for line in listed)


def test_one_more_than_the_limit_stops(cfg, damaged, tmp_path, caplog):
    cfg.DATASETS.TRAIN = (damaged,)
    cfg.INPUT.MAX_BAD_IMAGES = 1
    message = r"2 images cannot be used, INPUT.MAX_BAD_IMAGES allows 1 of 6; they are listed in .*bad_images.txt"
    with caplog.at_level(logging.WARNING, "fapn_d2"), pytest.raises(BadImageError, match=message):
        list(itertools.islice(build_train_loader(cfg), 12))
    assert "Left out of training (1 of at most 1): image lost" in caplog.text


def test_a_resumed_run_goes_on_counting(tmp_path):
    def mapper(record):
        if record["file_name"].startswith("bad"):
            raise BadImageError(f"image {record['file_name']} cannot be read")
        return record

    dataset = [{"file_name": "bad1"}, {"file_name": "bad2"}, {"file_name": "good"}]
    arguments = {"limit": 1, "log_file": tmp_path / "bad.txt"}
    assert SkipBadImages(mapper, dataset[::2], **arguments)(dataset[0])["file_name"] == "good"
    with pytest.raises(BadImageError, match=r"2 images .* image bad2"):
        SkipBadImages(mapper, dataset, **arguments)(dataset[1])


def test_all_images_bad_ends(tmp_path):
    def mapper(record):
        raise BadImageError(record["file_name"])

    dataset = [{"file_name": "a"}, {"file_name": "b"}]
    with pytest.raises(BadImageError, match="2 images cannot be used"):
        SkipBadImages(mapper, dataset, limit=99, log_file=tmp_path / "bad.txt")(dataset[0])


def test_labels_that_do_not_fit_are_never_skipped(cfg, shapes):
    """A wrong class number is a wrong setting, not a broken file."""
    cfg.INPUT.MAX_BAD_IMAGES = 100
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    with pytest.raises(ValueError, match=r"allowed are 0..1"):
        list(itertools.islice(build_train_loader(cfg), 12))
