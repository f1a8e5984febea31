"""COCO-Stuff 2017 from the pixel maps of the download to registered data sets with 92 classes."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from fapn_d2.data.datasets.coco_stuff_2017 import CLASSES
from tests.datasets.programs import run

IDS = np.array([[0, 92, 93, 182], [183, 183, 0, 100]], np.uint8)
LABELS = [[255, 0, 1, 90], [91, 91, 255, 8]]
NAMES = {"train": ["000000000009", "000000000025"], "val": ["000000000139"]}


@pytest.fixture
def root(tmp_path):
    """Three images; pixel maps are palette images, as the download has them."""
    for split, names in NAMES.items():
        for folder in (f"{split}2017", f"stuff_{split}2017_pixelmaps"):
            (tmp_path / "coco" / folder).mkdir(parents=True)
        for name in names:
            Image.new("RGB", IDS.shape[::-1]).save(tmp_path / "coco" / f"{split}2017" / f"{name}.jpg")
            pixels = Image.fromarray(IDS, mode="P")
            pixels.putpalette([7 * i % 256 for i in range(768)])
            pixels.save(tmp_path / "coco" / f"stuff_{split}2017_pixelmaps" / f"{name}.png")
    return tmp_path / "coco"


def test_names_of_the_classes():
    assert (len(CLASSES), CLASSES[0], CLASSES[90], CLASSES[91]) == (92, "banner", "wood", "other")


def test_from_the_download_to_records(root, monkeypatch, capsys):
    run("prepare_coco_stuff_2017", root)
    assert "1 images for val (the release has 5000), 2 images for train" in capsys.readouterr().out
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root.parent))
    for split, names in NAMES.items():
        records = DatasetCatalog.get(f"coco_stuff_2017_sem_seg_{split}")
        assert [r["file_name"] for r in records] == [str(root / f"{split}2017" / f"{n}.jpg") for n in names]
        assert all(np.array(Image.open(r["sem_seg_file_name"])).tolist() == LABELS for r in records)
    metadata = MetadataCatalog.get("coco_stuff_2017_sem_seg_val")
    assert (metadata.ignore_label, metadata.evaluator_type) == (255, "sem_seg")
    assert metadata.stuff_classes == list(CLASSES) and len(metadata.stuff_colors) == 92


def test_images_without_a_label_are_left_out_and_labels_without_an_image_refused(root, monkeypatch):
    run("prepare_coco_stuff_2017", root)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root.parent))
    (root / "stuff_92_train2017" / "000000000009.png").unlink()
    assert len(DatasetCatalog.get("coco_stuff_2017_sem_seg_train")) == 1
    (root / "train2017" / "000000000025.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 1 labels in .* have no image in .*train2017 \(000000000025\)"):
        DatasetCatalog.get("coco_stuff_2017_sem_seg_train")


def test_messages(root, capsys):
    path = root / "stuff_val2017_pixelmaps" / "000000000139.png"
    Image.fromarray(np.where(IDS == 100, 1, IDS)).save(path)
    with pytest.raises(SystemExit):
        run("prepare_coco_stuff_2017", root)
    error = capsys.readouterr().err
    assert f"{path} cannot be converted" in error and "holds the ids [1]; allowed are 0 and 92..183" in error
    path.unlink()
    with pytest.raises(SystemExit):
        run("prepare_coco_stuff_2017", root)
    assert "Unpack stuff_val2017_pixelmaps.zip there; it is in stuff_annotations" in capsys.readouterr().err
