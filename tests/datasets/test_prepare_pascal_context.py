"""PASCAL Context from .mat files to registered data sets."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from scipy.io import savemat

from fapn_d2.data.datasets.pascal_context import CLASSES
from tests.datasets.programs import run

SPLITS = {"train": ["2008_000002", "2009_000015"], "val": ["2008_000003"]}


@pytest.fixture
def download(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2010"
    for folder in ("JPEGImages", "ImageSets/Main", "trainval"):
        (root / folder).mkdir(parents=True)
    for split, names in SPLITS.items():
        # VOC's lists hold images that PASCAL Context has not labelled
        (root / f"ImageSets/Main/{split}.txt").write_text("".join(f"{n}\n" for n in [*names, f"2010_{split}"]))
        for name in names:
            Image.new("RGB", (7, 4)).save(root / "JPEGImages" / f"{name}.jpg")
            numbers = np.random.default_rng(len(name)).integers(0, 460, (4, 7))
            numbers[0, :4] = 0, 1, 2, 458
            savemat(root / "trainval" / f"{name}.mat", {"LabelMap": numbers.astype(np.uint16)})
    (root / "labels.txt").write_text("".join(f"{n}: {CLASSES.get(n, 'other')}\n" for n in range(1, 460)))
    return root


def test_labels_and_data_sets(download, tmp_path, monkeypatch, capsys):
    run("prepare_pascal_context", download)
    assert "2 images for train (the release has 4998), 1 images for val" in capsys.readouterr().out
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for split, names in SPLITS.items():
        records = DatasetCatalog.get(f"pascal_context_59_sem_seg_{split}")
        assert [r["file_name"] for r in records] == [f"{download}/JPEGImages/{n}.jpg" for n in names]
        labels = np.array(Image.open(records[0]["sem_seg_file_name"]))
        assert labels[0, :4].tolist() == [255, 255, 0, 58] and labels.max() == 255
        metadata = MetadataCatalog.get(f"pascal_context_59_sem_seg_{split}")
        assert metadata.stuff_classes == sorted(metadata.stuff_classes) and len(metadata.stuff_classes) == 59
        assert metadata.ignore_label == 255 and metadata.evaluator_type == "sem_seg"


def test_another_numbering_is_noticed(download):
    lines = (download / "labels.txt").read_text().replace("9: bag", "9: bagel")
    (download / "labels.txt").write_text(lines)
    with pytest.raises(SystemExit, match=r"labels\.txt: label 9 is 'bagel', not 'bag'"):
        run("prepare_pascal_context", download)


def test_a_list_stands_for_a_complete_split(download, tmp_path, monkeypatch):
    (download / "JPEGImages/2008_000003.jpg").unlink()
    with pytest.raises(SystemExit, match=r"2008_000003\.jpg"):
        run("prepare_pascal_context", download)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"/train\.txt is absent\. .*datasets/prepare_pascal_context\.py"):
        DatasetCatalog.get("pascal_context_59_sem_seg_train")


def test_what_does_not_fit_is_named(download):
    savemat(download / "trainval/2011_000001.mat", {"LabelMap": np.zeros((2, 2))})
    with pytest.raises(SystemExit, match=r"1 annotations are in neither of VOC's lists \(2011_000001"):
        run("prepare_pascal_context", download)
    (download / "trainval/2011_000001.mat").unlink()
    savemat(download / "trainval/2008_000002.mat", {"LabelMap": np.full((4, 7), 460)})
    with pytest.raises(SystemExit, match=r"2008_000002\.mat cannot be converted: .*labels 460\.\.460; allowed are 0"):
        run("prepare_pascal_context", download)
    for file in (download / "trainval").iterdir():
        file.unlink()
    with pytest.raises(SystemExit, match=r"trainval holds no annotations \(\.mat\)\. Unpack VOCtrainval"):
        run("prepare_pascal_context", download)
