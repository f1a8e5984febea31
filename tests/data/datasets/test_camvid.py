import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from fapn_d2.data.datasets.camvid import CLASSES, COLORS, load_camvid


def _tree(root, split, images, labels):
    for folder, names in ((split, images), (f"{split}annot", labels)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            (root / folder / name).touch()


def test_png_and_jpg_pair_with_labels_of_the_same_stem(tmp_path):
    _tree(tmp_path, "train", ["b.png", "a.jpg", "notes.txt"], ["a.png", "b.png"])
    _tree(tmp_path, "val", ["c.JPG"], ["c.png"])
    records = load_camvid(tmp_path, ("train", "val"))
    assert [(r["file_name"], r["sem_seg_file_name"]) for r in records] == [
        (str(tmp_path / image), str(tmp_path / label))
        for image, label in (
            ("train/a.jpg", "trainannot/a.png"),
            ("train/b.png", "trainannot/b.png"),
            ("val/c.JPG", "valannot/c.png"),
        )
    ]


def test_absent_and_half_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder .*train is absent.*prepare_camvid.py"):
        load_camvid(tmp_path, ("train",))
    _tree(tmp_path, "train", ["a.jpg", "b.jpg"], ["b.png", "c.png"])
    with pytest.raises(
        FileNotFoundError, match=r"1 of 2 images in .*no label \(a\); 1 of 2 labels in .*no image \(c\).*prepare_camvid"
    ):
        load_camvid(tmp_path, ("train",))


def test_names_colours_and_ignore_label():
    for name in ("train", "val", "trainval", "test"):
        metadata = MetadataCatalog.get(f"camvid_sem_seg_{name}")
        assert metadata.stuff_classes == list(CLASSES) and len(CLASSES) == len(COLORS) == 11
        assert metadata.ignore_label == 11 and metadata.evaluator_type == "sem_seg"


def test_real_camvid(shared, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shared / "data"))
    numbers = {s: len(DatasetCatalog.get(f"camvid_sem_seg_{s}")) for s in ("train", "val", "trainval", "test")}
    assert numbers == {"train": 367, "val": 101, "trainval": 468, "test": 233}
    record = DatasetCatalog.get("camvid_sem_seg_val")[0]
    label = np.asarray(Image.open(record["sem_seg_file_name"]))
    assert Image.open(record["file_name"]).size == label.shape[::-1] == (480, 360)
    assert label.max() <= 11
    assert MetadataCatalog.get("camvid_sem_seg_val").image_root == str(shared / "data/camvid/val")
