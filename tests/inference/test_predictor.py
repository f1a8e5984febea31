"""Predictions on files and arrays: the same as the network's own on the loader's samples, and their files."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

from fapn_d2.data import PyramidDatasetMapper
from fapn_d2.data.panoptic_png import read_segment_ids
from fapn_d2.data.reading import BadImageError
from fapn_d2.inference.predictor import Predictor, batches_of_one_shape, find_config, find_images
from fapn_d2.inference.results import ResultFiles
from fapn_d2.meta_arch.build import build_model

from ..toys.training import toy_config


@pytest.fixture
def predictor(tmp_path):
    cfg = toy_config(tmp_path / "run")
    model = build_model(cfg)
    (tmp_path / "run").mkdir()
    torch.save({"model": model.state_dict()}, tmp_path / "run" / "model_final.pth")
    (tmp_path / "run" / "config.yaml").write_text(cfg.dump())
    return Predictor.load(weights=str(tmp_path / "run" / "model_final.pth"))


@pytest.fixture
def photograph(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photograph.png")
    return tmp_path / "photograph.png"


def test_a_file_is_predicted_as_in_evaluation(predictor, photograph):
    sample = PyramidDatasetMapper(predictor.cfg, is_train=False)({"file_name": str(photograph)})
    with torch.no_grad():
        expected = predictor.model([sample])[0]["sem_seg"]
    got = predictor(photograph)["sem_seg"]
    assert got.shape == (11, 37, 50) and torch.equal(got, expected)


def test_an_array_is_predicted_as_the_file(predictor, photograph):
    pixels = np.asarray(Image.open(photograph))
    array = pixels[..., ::-1] if predictor.cfg.INPUT.FORMAT == "BGR" else pixels
    assert torch.equal(predictor(np.ascontiguousarray(array))["sem_seg"], predictor(photograph)["sem_seg"])


def test_orientation_of_a_photograph_counts(predictor, tmp_path):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 20, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert predictor(tmp_path / "turned.jpg")["sem_seg"].shape == (11, 20, 40)


@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 5), np.uint8), np.zeros((4, 5, 3), np.float32), np.zeros((4, 5, 4), np.uint8)]
)
def test_arrays_that_are_not_images(predictor, wrong):
    with pytest.raises(ValueError, match=r"an image must be an \(H, W, 3\) uint8 array in the order BGR, got"):
        predictor(wrong)


def test_broken_files_are_named(predictor, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(BadImageError, match=r"text\.jpg cannot be read"):
        predictor(tmp_path / "text.jpg")
    with pytest.raises(FileNotFoundError, match=r"absent\.jpg does not exist"):
        predictor(tmp_path / "absent.jpg")


def test_config_beside_the_checkpoint(tmp_path):
    assert find_config("mine.yaml", "x/y.pth") == "mine.yaml"
    with pytest.raises(ValueError, match=r"has no config\.yaml in its folder: name the config"):
        find_config("", str(tmp_path / "model.pth"))
    with pytest.raises(ValueError, match="name a config"):
        find_config("", "")


def test_images_of_folders_patterns_and_files(tmp_path, monkeypatch):
    for name in ("b.jpg", "a.PNG", "notes.txt", "sub/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [p.name for p in find_images([tmp_path])] == ["a.PNG", "b.jpg"]
    assert [p.name for p in find_images([tmp_path / "b.jpg", tmp_path, tmp_path / "*" / "*.jpg"])] == [
        *("b.jpg", "a.PNG", "c.jpg")
    ]
    monkeypatch.chdir(tmp_path)
    assert [p.name for p in find_images(["*.jpg"])] == ["b.jpg"]
    (tmp_path / "empty").mkdir()
    for given, message in (("empty", "contains no images"), ("*.gif", "no file matches"), ("d.jpg", "does not exist")):
        with pytest.raises(FileNotFoundError, match=message):
            find_images([given])


def test_batches_hold_one_shape():
    shapes = [(3, 4, 4), (3, 4, 4), (3, 4, 4), (3, 5, 4), (3, 4, 4)]
    samples = [{"image": torch.zeros(shape), "n": n} for n, shape in enumerate(shapes)]
    assert [[s["n"] for s in batch] for batch in batches_of_one_shape(samples, 2)] == [[0, 1], [2], [3], [4]]


@pytest.fixture
def classes():
    name = "classes_of_test_predictor"
    MetadataCatalog.get(name).set(thing_classes=["dog", "cat"], stuff_classes=["sky"])
    yield name
    MetadataCatalog.remove(name)


def test_files_of_all_kinds(tmp_path, classes):
    objects = Instances((6, 8))
    objects.pred_boxes = Boxes(torch.tensor([[1.0, 2.0, 4.0, 6.0], [0.0, 0.0, 8.0, 6.0]]))
    objects.scores = torch.tensor([0.9, 0.2])
    objects.pred_classes = torch.tensor([1, 0])
    scores = torch.zeros(3, 6, 8)
    scores[2, :3] = 1
    ids = torch.zeros(6, 8, dtype=torch.int32)
    ids[:2], ids[4:] = 1, 70000
    segments = [{"id": 1, "category_id": 0, "isthing": False}, {"id": 70000, "category_id": 5, "isthing": True}]
    files = ResultFiles(tmp_path / "out", dataset=classes, least_score=0.5)
    files.add("one", "photos/one.jpg", {"instances": objects, "sem_seg": scores, "panoptic_seg": (ids, segments)})
    content = json.loads(files.close().read_text())
    (image,) = content["images"]
    assert (image["file_name"], image["height"], image["width"]) == ("photos/one.jpg", 6, 8)
    (dog,) = image["objects"]
    assert dog["bbox"] == [1, 2, 3, 4] and dog["category"] == "cat" and dog["score"] == pytest.approx(0.9)
    labels = np.asarray(Image.open(tmp_path / "out" / image["labels"]))
    assert labels.dtype == np.uint8 and (labels == np.repeat([2, 0], 3)[:, None]).all()
    assert (read_segment_ids(str(tmp_path / "out" / image["panoptic"])) == ids.numpy()).all()
    assert [s["category"] for s in image["segments"]] == ["sky", "class 5"]


def test_many_classes_need_sixteen_bits(tmp_path):
    scores = torch.zeros(300, 1, 2)
    scores[299, 0, 1] = 1
    ResultFiles(tmp_path).add("a", "a.jpg", {"sem_seg": scores})
    assert np.asarray(Image.open(tmp_path / "a_labels.png")).tolist() == [[0, 299]]
