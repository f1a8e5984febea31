"""ADE20K: labels as Detectron2's own program writes them, where Detectron2 looks for them."""

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import load_sem_seg
from PIL import Image

from fapn_d2.config.loading import load_config
from tests.datasets.programs import run


@pytest.fixture
def download(tmp_path):
    root = tmp_path / "ADEChallengeData2016"
    for number, split in enumerate(("training", "validation")):
        for folder in ("images", "annotations"):
            (root / folder / split).mkdir(parents=True)
        labels = np.random.default_rng(number).integers(0, 151, (5, 8)).astype(np.uint8)
        labels[0, :3] = 0, 1, 150
        Image.fromarray(labels).save(root / f"annotations/{split}/ADE_{split}_00000001.png")
        Image.new("RGB", (8, 5)).save(root / f"images/{split}/ADE_{split}_00000001.jpg")
    return root


def test_labels_count_from_zero(download, capsys):
    load_config()  # adds the colours
    run("prepare_ade20k", download)
    assert "1 images for training (the release has 20210), 1 images for validation" in capsys.readouterr().out
    for name, split in (("train", "training"), ("val", "validation")):
        metadata = MetadataCatalog.get(f"ade20k_sem_seg_{name}")
        assert metadata.sem_seg_root.endswith(f"ADEChallengeData2016/annotations_detectron2/{split}")
        assert len(metadata.stuff_colors) == len(metadata.stuff_classes) == 150
        folders = download / "annotations_detectron2" / split, download / "images" / split
        (record,) = load_sem_seg(*map(str, folders), gt_ext="png", image_ext="jpg")
        before = np.array(Image.open(record["sem_seg_file_name"].replace("annotations_detectron2", "annotations")))
        after = np.array(Image.open(record["sem_seg_file_name"]))
        assert after[0, :3].tolist() == [255, 0, 149]
        assert (after == before - np.uint8(1)).all()  # what Detectron2's prepare_ade20k_sem_seg.py computes


def test_the_full_ade20k_is_refused(download):
    path = download / "annotations/validation/ADE_validation_00000001.png"
    Image.new("L", (8, 5), 151).save(path)
    with pytest.raises(
        SystemExit, match=rf"{path.name} cannot be converted: .*label 151; those of the challenge are 0"
    ):
        run("prepare_ade20k", download)


def test_half_a_download(download):
    (download / "images/validation/ADE_validation_00000001.jpg").rename(download / "images/validation/other.jpg")
    with pytest.raises(
        SystemExit, match=r"no image in .*images/validation has a label.*Unpack ADEChallengeData2016\.zip"
    ):
        run("prepare_ade20k", download)
