"""panopticapi's two example images as a COCO of their own."""

import json

import numpy as np
import pycocotools.mask
import pytest

from fapn_d2.data.datasets.coco_panoptic import write_sample
from fapn_d2.data.panoptic_png import read_segment_ids, write_segment_ids
from fapn_d2.data.reading import read_labels

CATEGORIES = [{"id": 1, "name": "person", "isthing": 1}, {"id": 184, "name": "tree", "isthing": 0}]


@pytest.fixture
def sample(tmp_path):
    """One image: a person of two pixels, a crowd of one, a tree of two, one pixel without a label."""
    folder = tmp_path / "sample_data"
    (folder / "panoptic_examples").mkdir(parents=True)
    (folder / "input_images").mkdir()
    (folder / "input_images" / "a.jpg").write_bytes(b"any bytes")
    write_segment_ids(str(folder / "panoptic_examples" / "a.png"), np.array([[7, 7, 8], [300, 300, 0]]))
    segments = [(7, 1, 0), (8, 1, 1), (300, 184, 0)]
    content = {
        "images": [{"id": 5, "file_name": "a.jpg", "height": 2, "width": 3}],
        "categories": CATEGORIES,
        "annotations": [
            {
                "image_id": 5,
                "file_name": "a.png",
                "segments_info": [{"id": i, "category_id": c, "iscrowd": crowd} for i, c, crowd in segments],
            }
        ],
    }
    (folder / "panoptic_examples.json").write_text(json.dumps(content))
    return folder


def test_files(sample, tmp_path):
    root = tmp_path / "data" / "coco"
    assert write_sample(sample, root) == (1, 2)
    assert (root / "val2017" / "a.jpg").read_bytes() == b"any bytes"
    assert read_segment_ids(str(root / "panoptic_val2017" / "a.png")).tolist() == [[7, 7, 8], [300, 300, 0]]
    stuff = read_labels(str(root / "panoptic_stuff_val2017" / "a.png"))
    tree = stuff[1, 0]  # Detectron2's number of category 184
    assert 0 < tree < 54 and stuff.tolist() == [[0, 0, 0], [tree, tree, 255]]
    found = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    assert [c["id"] for c in found["categories"]] == [1]
    person, crowd = found["annotations"]
    assert (person["bbox"], person["area"], person["iscrowd"]) == ([0, 0, 2, 1], 2, 0)
    assert (crowd["bbox"], crowd["area"], crowd["iscrowd"]) == ([2, 0, 1, 1], 1, 1)
    assert pycocotools.mask.decode(person["segmentation"]).tolist() == [[1, 1, 0], [0, 0, 0]]


def test_mistakes(sample, tmp_path):
    with pytest.raises(ValueError, match="exists, and may be a downloaded COCO; give a folder that does not exist"):
        write_sample(sample, tmp_path)
    with pytest.raises(FileNotFoundError, match="give the folder sample_data of panopticapi"):
        write_sample(tmp_path, tmp_path / "new")
