"""A few images of COCO as a data set of its own."""

import json
import runpy
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from fapn_d2.data.datasets.coco_subset import select

PROGRAM = Path(__file__).parents[3] / "datasets" / "prepare_coco_subset.py"


def content(areas: dict[int, list[float]], crowds=()) -> dict:
    annotations = [
        {"id": 100 * i + k, "image_id": i, "category_id": 1, "bbox": [0, 0, 9, 9], "area": area, "iscrowd": i in crowds}
        for i, found in areas.items()
        for k, area in enumerate(found)
    ]
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 20, "width": 30} for i in reversed(areas)]
    return {"images": images, "annotations": annotations, "categories": [c for c in COCO_CATEGORIES if c["isthing"]]}


def test_selection():
    """Left out: no object (2), a small one (3), a crowd (5)."""
    given = content({1: [100], 2: [], 3: [400, 99], 4: [100, 300], 5: [500], 6: [100]}, crowds=[5])
    subset = select(given, 2, min_side=10)
    assert [image["id"] for image in subset["images"]] == [1, 4]
    assert [o["id"] for o in subset["annotations"]] == [100, 400, 401]
    assert subset["categories"] == given["categories"]
    with pytest.raises(ValueError, match=r"only 3 of 6 images have objects .* 4 are asked for; lower --min-side"):
        select(given, 4, min_side=10)


def test_program_and_registration(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    main = runpy.run_path(str(PROGRAM))["main"]
    with pytest.raises(SystemExit, match=r"instances_train2017\.json is absent; datasets/README\.md shows"):
        main([])
    folder = tmp_path / "coco" / "annotations"
    folder.mkdir(parents=True)
    (folder / "instances_train2017.json").write_text(json.dumps(content({i: [2000] for i in range(1, 12)})))
    main([])
    assert "8 images with 8 objects" in capsys.readouterr().out
    records = DatasetCatalog.get("coco_2017_train_8")
    assert [Path(r["file_name"]).name for r in records] == [f"{i}.jpg" for i in range(1, 9)]
    assert MetadataCatalog.get("coco_2017_train_8").json_file == str(folder / "instances_train2017_8.json")
    with pytest.raises(SystemExit, match="only 11 of 11 images"):
        main(["--number", "12"])


def test_the_first_images_of_val2014(tmp_path, monkeypatch):
    """FPN's segmentation proposals are scored on 5,000 of the 40,504 images: those with the smallest ids."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    folder = tmp_path / "coco" / "annotations"
    folder.mkdir(parents=True)
    ids = [3 * i + 1 for i in range(5004)]
    (folder / "instances_val2014.json").write_text(json.dumps(content({i: [2000] for i in ids})))
    records = DatasetCatalog.get("coco_2014_val_first_5000")
    assert [record["image_id"] for record in records] == ids[:5000]
    assert Path(records[0]["file_name"]) == tmp_path / "coco" / "val2014" / "1.jpg"
