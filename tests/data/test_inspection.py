"""Whole data sets read file by file: each kind of fault is planted and found; statistics are counted by hand."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as coco_mask

from fapn_d2.config.loading import load_config
from fapn_d2.data.inspection import _mask_fault, _run_length_fault, inspect_dataset, inspect_datasets
from fapn_d2.data.run_lengths import decode_run_lengths

TOOL = Path(__file__).resolve().parents[2] / "tools" / "check_data.py"


@pytest.fixture(scope="module", autouse=True)
def _registered():
    load_config()  # registers the shapes


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("check_tool", TOOL)
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module.main


@pytest.fixture
def own_shapes(shapes, tmp_path, monkeypatch):
    """A copy of shapes that a test may spoil."""
    shutil.copytree(shapes, tmp_path / "root" / "shapes")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "root"))
    return tmp_path / "root" / "shapes"


def counts(report):
    return {kind: entry["count"] for kind, entry in report.faults.items()}


def test_sound_data_and_their_statistics(shapes):
    content = json.loads((shapes / "annotations/instances_val.json").read_text())
    report, panoptic = inspect_datasets(["shapes_val", "shapes_val_panoptic_separated"], workers=2)
    assert not report.faults and not panoptic.faults
    assert (report.images, report.objects) == (3, len(content["annotations"]))
    names = {c["id"]: c["name"] for c in content["categories"]}
    found = [names[a["category_id"]] for a in content["annotations"]]
    assert report.object_classes == {name: found.count(name) for name in names.values()}
    areas = [a["bbox"][2] * a["bbox"][3] for a in content["annotations"]]
    assert report.object_sizes["small"] == sum(area < 1024 for area in areas)
    assert sum(report.object_sizes.values()) == len(areas)
    assert sum(panoptic.region_classes.values()) <= 3 * 96 * 128 and panoptic.region_classes["things"] > 0
    assert panoptic.notes["images that shapes_val has too"]["count"] == 3
    shared = inspect_datasets(["shapes_val", "shapes_val_panoptic_separated"], train=["shapes_val"])[1]
    assert counts(shared) == {"images that shapes_val has too": 3}
    assert inspect_dataset("shapes_val").fingerprint == report.fingerprint


def test_planted_faults(own_shapes, main, tmp_path, capsys):
    before = inspect_dataset("shapes_train").fingerprint
    path = own_shapes / "annotations/instances_train.json"
    content = json.loads(path.read_text())
    objects = content["annotations"]
    assert len(objects) > 8
    good = dict(objects[0], iscrowd=0)
    objects[0]["bbox"] = [5, 5, -3, 4]
    objects[1]["bbox"] = [5, 5, 0, 4]
    objects[2]["bbox"] = [5, 5, float("nan"), 4]
    objects[3]["bbox"] = [120, 5, 60, 4]
    objects[4]["segmentation"] = [[1, 1, float("inf"), 2, 3, 3]]
    objects[5]["segmentation"] = [[1, 1, 2, 2]]
    objects[6]["category_id"] = 77
    objects += [good | {"id": 10**6, "image_id": 999}, good | {"id": objects[7]["id"]}]
    content["images"][0]["width"] = 64
    path.write_text(json.dumps(content))
    (own_shapes / "train" / content["images"][1]["file_name"]).unlink()
    broken = own_shapes / "train" / content["images"][2]["file_name"]
    broken.write_bytes(broken.read_bytes()[:200])
    (own_shapes / "train" / content["images"][3]["file_name"]).write_bytes(
        (own_shapes / "val" / "000001.jpg").read_bytes()
    )
    with pytest.raises(SystemExit) as end:
        main(["shapes_train", "shapes_val", "--workers", "1", "--output", str(tmp_path / "out")])
    assert end.value.code == 2
    first, second = json.loads((tmp_path / "out" / "check.json").read_text())
    found = {kind: entry["count"] for kind, entry in first["faults"].items()}
    assert found.pop("boxes that lie outside of their image") >= 1  # the narrowed image may add some
    assert found.pop("masks that lie outside of their image", 0) >= 0
    assert found == {
        "annotation ids that occur twice": 1,
        "annotations of images that do not exist": 1,
        "images of another size than their annotation says": 1,
        "missing images": 1,
        "images that cannot be read": 1,
        "classes of objects that do not exist": 1,
        "boxes that have a negative width or height": 1,
        "boxes that are empty": 1,
        "boxes that are NaN or infinite": 1,
        "masks that have NaN or infinite coordinates": 1,
        "masks that have polygons of less than three points": 1,
    }
    assert not second["faults"] and second["notes"]["images that shapes_train has too"]["count"] == 1
    assert first["fingerprint"] != before
    printed = capsys.readouterr().out
    assert "fault: 1 missing images, as" in printed and "annotation 1000000 of image 999" in printed
    page = (tmp_path / "out" / "index.html").read_text()
    assert "boxes that are empty" in page and "Sizes of objects" in page


def test_label_images(camvid):
    folder = camvid / "camvid" / "trainannot"
    Image.fromarray(np.full((8, 8), 3, np.uint8)).save(folder / "0.png")
    label = np.array(Image.open(folder / "1.png"))
    label[:2] = 40
    Image.fromarray(label).save(folder / "1.png")
    Image.new("RGB", (32, 32)).save(folder / "2.png")
    report = inspect_dataset("camvid_sem_seg_train")
    assert counts(report) == {
        "labels of another size than their image": 1,
        "label values that are not 0 to 10 or 11": 1,
        "labels that cannot be read": 1,
    }
    assert report.faults["label values that are not 0 to 10 or 11"]["examples"][0].endswith("1.png: 64 pixels of 40")
    total = sum(int((np.array(Image.open(folder / f"{n}.png")) < 11).sum()) for n in (0, 1, 3, 4, 5))
    assert sum(report.region_classes.values()) == total


def test_records_of_other_data_sets(tmp_path):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    objects = [{"bbox": [2, 2, 30, 8], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1}]
    DatasetCatalog.register("loose", lambda: [{"file_name": str(tmp_path / "a.png"), "annotations": objects}])
    try:
        MetadataCatalog.get("loose").set(thing_classes=["a"])
        found = counts(inspect_dataset("loose"))
    finally:
        DatasetCatalog.remove("loose")
        MetadataCatalog.remove("loose")
    assert found == {"classes of objects that do not exist": 1, "boxes that lie outside of their image": 1}


def test_run_lengths():
    mask = np.random.default_rng(0).integers(0, 2, (13, 17), dtype=np.uint8)
    mask[3:9, 2:12] = 1
    encoded = coco_mask.encode(np.asfortranarray(mask))
    lengths = decode_run_lengths(encoded["counts"]).tolist()
    column = mask.ravel("F")
    changes = np.flatnonzero(np.diff(column)) + 1
    expected = np.diff([0, *changes, column.size]).tolist()
    assert lengths == ([0, *expected] if column[0] else expected)
    assert _run_length_fault(encoded, 13, 17) == ""
    assert "another size" in _run_length_fault(encoded, 17, 13)
    assert "broken" in _run_length_fault({"size": [13, 17], "counts": encoded["counts"][:-3]}, 13, 17)
    assert "broken" in _run_length_fault({"size": [2, 2], "counts": [1, 2]}, 2, 2)
    assert "without area" in _mask_fault([[0, 0, 4, 4, 8, 8]], 10, 10)
    assert _mask_fault([[0, 0, 4, 0, 4, 4]], 10, 10) == ""


def test_messages(main, capsys):
    for words, message in (
        ([], "there is nothing to check"),
        (["shapes_vla"], "is not registered; nearest: shapes_val"),
    ):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 2 and message in capsys.readouterr().err
