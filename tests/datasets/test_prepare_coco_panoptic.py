"""COCO panoptic: what Panoptic FPN's semantic branch learns from."""

import json
import shutil

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from PIL import Image

from fapn_d2.data.datasets.coco_panoptic import stuff_classes
from tests.datasets.programs import run

IMAGE, LABEL = "000000000139.jpg", "000000000139.png"


@pytest.fixture
def download(tmp_path):
    """One image: a person (id 3226956), grass (id 256), a merged wall (id 65536 * 7), and void."""
    root = tmp_path / "coco"
    for folder in ("annotations", "val2017", "panoptic_val2017"):
        (root / folder).mkdir(parents=True)
    ids = np.zeros((4, 6), np.int64)
    ids[0], ids[1], ids[2, :3] = 3226956, 256, 65536 * 7
    Image.new("RGB", (6, 4)).save(root / "val2017" / IMAGE)
    colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    Image.fromarray(colors).save(root / "panoptic_val2017" / LABEL)
    number = {c["name"]: c["id"] for c in COCO_CATEGORIES}
    segments = [(3226956, "person"), (256, "playingfield"), (65536 * 7, "wall-other-merged")]
    annotations = {
        "images": [{"id": 139, "file_name": IMAGE, "height": 4, "width": 6}],
        "annotations": [
            {
                "image_id": 139,
                "file_name": LABEL,
                "segments_info": [{"id": i, "category_id": number[name]} for i, name in segments],
            }
        ],
        "categories": [],
    }
    (root / "annotations/panoptic_val2017.json").write_text(json.dumps(annotations))
    return root


def test_classes_are_those_of_the_metadata():
    classes = stuff_classes()
    names = MetadataCatalog.get("coco_2017_train_panoptic_separated").stuff_classes
    assert len(classes) == 133 and len(names) == 54
    for category in COCO_CATEGORIES:
        expected = "things" if category["isthing"] else category["name"].replace("-other", "").replace("-merged", "")
        assert names[classes[category["id"]]] == expected


def test_things_stuff_and_void(download, capsys):
    run("prepare_coco_panoptic", download, "--splits", "val2017")
    assert "1 labels for val2017\n" in capsys.readouterr().out
    labels = np.array(Image.open(download / "panoptic_stuff_val2017" / LABEL))
    names = MetadataCatalog.get("coco_2017_val_panoptic_separated").stuff_classes
    assert labels.dtype == np.uint8 and labels.shape == (4, 6)
    assert (labels[0] == 0).all() and names[labels[1, 0]] == "playingfield" and names[labels[2, 0]] == "wall"
    assert (labels[2, 3:] == 255).all() and (labels[3] == 255).all()


def test_cocos_examples(real_images, tmp_path):
    """Two real annotations, every pixel by the slow way."""
    root = tmp_path / "coco"
    shutil.copytree(real_images / "panoptic", root / "panoptic_val2017")
    (root / "annotations").mkdir()
    shutil.copy(real_images / "panoptic.json", root / "annotations/panoptic_val2017.json")
    run("prepare_coco_panoptic", root, "--splits", "val2017")
    classes = stuff_classes()
    for annotation in json.loads((real_images / "panoptic.json").read_text())["annotations"]:
        colors = np.array(Image.open(real_images / "panoptic" / annotation["file_name"])).astype(int)
        expected = np.full(colors.shape[:2], 255)
        for segment in annotation["segments_info"]:
            expected[colors @ [1, 256, 65536] == segment["id"]] = classes[segment["category_id"]]
        assert (np.array(Image.open(root / "panoptic_stuff_val2017" / annotation["file_name"])) == expected).all()


def test_what_is_wrong_is_named(download):
    with pytest.raises(
        SystemExit, match=r"panoptic_train2017\.json is absent; unpack panoptic_annotations_trainval2017"
    ):
        run("prepare_coco_panoptic", download)
    Image.new("RGB", (6, 4)).save(download / "panoptic_val2017" / LABEL)
    shutil.rmtree(download / "panoptic_stuff_val2017")
    with pytest.raises(SystemExit, match=rf"{LABEL} cannot be converted: .*segment 256 of its annotation is not in it"):
        run("prepare_coco_panoptic", download, "--splits", "val2017")
    (download / "panoptic_val2017" / LABEL).write_text("no image")
    with pytest.raises(SystemExit, match="not an image that can be read"):
        run("prepare_coco_panoptic", download, "--splits", "val2017")
