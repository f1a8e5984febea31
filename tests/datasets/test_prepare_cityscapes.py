"""Cityscapes: made as the official tools make it, and read by Detectron2's loaders."""

import importlib
import json
import sys

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.cityscapes import load_cityscapes_instances, load_cityscapes_semantic
from detectron2.data.datasets.cityscapes_panoptic import load_cityscapes_panoptic
from PIL import Image

from fapn_d2.config.loading import load_config
from fapn_d2.data.datasets.cityscapes import lending
from tests.datasets.programs import run
from tests.toys.cityscapes import make_tree

pytest.importorskip("cityscapesscripts")


@pytest.fixture
def download(tmp_path):
    root = tmp_path / "cityscapes"
    make_tree(root, split="train", images=3, seed=1)
    make_tree(root, split="val", images=2, seed=2)
    return root


def test_train_ids_are_those_of_the_label_list(download, capsys):
    from cityscapesscripts.helpers.labels import id2label

    run("prepare_cityscapes", download, "--only", "semantic")
    assert "3 semantic labels for train, 2 semantic labels for val" in capsys.readouterr().out
    for file in download.glob("gtFine/*/*/*_labelIds.png"):
        ids = np.array(Image.open(file))
        made = np.array(Image.open(str(file).replace("labelIds", "labelTrainIds")))
        assert made.dtype == np.uint8
        assert (made == np.vectorize(lambda number: id2label[number].trainId)(ids)).all()
    records = load_cityscapes_semantic(str(download / "leftImg8bit/val/"), str(download / "gtFine/val/"))
    assert len(records) == 2 and not (download / "gtFine/cityscapes_panoptic_val.json").exists()


def test_panoptic_annotations_equal_the_official_tool(download, tmp_path, capsys):
    from cityscapesscripts.preparation.createPanopticImgs import convert2panoptic

    run("prepare_cityscapes", download)
    (tmp_path / "official").mkdir()
    convert2panoptic(str(download / "gtFine"), str(tmp_path / "official"), setNames=["train", "val"])
    for split in ("train", "val"):
        name = f"cityscapes_panoptic_{split}"
        ours, theirs = (
            json.loads((d / f"{name}.json").read_text()) for d in (download / "gtFine", tmp_path / "official")
        )
        assert ours == theirs
        assert any(s["iscrowd"] for a in theirs["annotations"] for s in a["segments_info"]) or split == "val"
        for annotation in theirs["annotations"]:
            images = [
                np.array(Image.open(d / name / annotation["file_name"]))
                for d in (download / "gtFine", tmp_path / "official")
            ]
            assert (images[0] == images[1]).all()


def test_detectron2_reads_the_panoptic_annotations(download):
    run("prepare_cityscapes", download, "--splits", "val")
    metadata = MetadataCatalog.get("cityscapes_fine_panoptic_val").as_dict()
    records = load_cityscapes_panoptic(
        str(download / "leftImg8bit/val"),
        str(download / "gtFine/cityscapes_panoptic_val"),
        str(download / "gtFine/cityscapes_panoptic_val.json"),
        metadata,
    )
    assert len(records) == 2 and all(r["segments_info"] for r in records)


def test_objects_can_be_loaded(download):
    pytest.importorskip("shapely")
    records = load_cityscapes_instances(str(download / "leftImg8bit/val/"), str(download / "gtFine/val/"))
    assert len(records) == 2 and sum(len(r["annotations"]) for r in records) > 5


def test_a_second_run_makes_what_is_missing(download):
    run("prepare_cityscapes", download, "--splits", "train")
    kept = {
        p: p.stat().st_mtime_ns for p in [*download.rglob("*_labelTrainIds.png"), *download.rglob("*_panoptic.png")]
    }
    gone = [next(download.rglob("*_labelTrainIds.png")), next(download.rglob("*_panoptic.png"))]
    content = [path.read_bytes() for path in gone]
    for path in gone:
        path.unlink()
    run("prepare_cityscapes", download, "--splits", "train")
    assert [path.read_bytes() for path in gone] == content
    assert {p for p, time in kept.items() if p.stat().st_mtime_ns != time} == set(gone)


def test_what_is_wrong_is_named(download):
    run("prepare_cityscapes", download, "--splits", "val")
    panoptic = next(download.rglob("*_panoptic.png"))
    Image.new("RGB", (160, 96)).save(panoptic)
    with pytest.raises(SystemExit, match=rf"1 .* images are wrong: .*{panoptic.name} does not hold the segments of"):
        run("prepare_cityscapes", download, "--splits", "val")
    panoptic.unlink()
    semantic = next((download / "gtFine/val").rglob("*_labelTrainIds.png"))
    Image.new("L", (160, 96), 19).save(semantic)
    with pytest.raises(SystemExit, match=rf"{semantic.name} holds \[19\]; allowed are 0\.\.18 and 255.*Remove them"):
        run("prepare_cityscapes", download, "--splits", "val")
    next((download / "leftImg8bit/val").rglob("*.png")).unlink()
    with pytest.raises(SystemExit, match=r"holds no images|have no image"):
        run("prepare_cityscapes", download, "--splits", "val")
    with pytest.raises(
        SystemExit, match=r"no .*gtFine/test/<city>/.*instanceIds\.png\. Unpack gtFine_trainvaltest\.zip"
    ):
        run("prepare_cityscapes", download, "--splits", "test")


def test_ids_that_cityscapes_does_not_have(download):
    labels = next((download / "gtFine/val").rglob("*_labelIds.png"))
    Image.new("L", (160, 96), 40).save(labels)
    with pytest.raises(SystemExit, match=rf"{labels.name} cannot be converted: .*the label 40; allowed are 0\.\.33"):
        run("prepare_cityscapes", download, "--splits", "val", "--only", "semantic")
    instances = next((download / "gtFine/val").rglob("*_instanceIds.png"))
    Image.fromarray(np.full((96, 160), 34001, np.uint16)).save(instances)
    with pytest.raises(SystemExit, match="the id 34001, which Cityscapes does not have"):
        run("prepare_cityscapes", download, "--splits", "val", "--only", "panoptic")


def test_colours_of_the_benchmark():
    from cityscapesscripts.helpers.labels import labels

    load_config()  # adds the colours
    colors = [list(label.color) for label in sorted(labels, key=lambda x: x.trainId) if 0 <= label.trainId < 255]
    for split in ("train", "val", "test"):
        assert MetadataCatalog.get(f"cityscapes_fine_sem_seg_{split}").stuff_colors == colors
        assert MetadataCatalog.get(f"cityscapes_fine_instance_seg_{split}").thing_colors == colors[11:]
        assert f"cityscapes_fine_sem_seg_{split}" in DatasetCatalog


def test_the_internal_name_is_lent_while_loading():
    name = "deeplearning.projects.cityscapesApi.cityscapesscripts.helpers.labels"

    def load():
        return [importlib.import_module(name).id2label[26].name]

    with pytest.raises(ModuleNotFoundError):
        load()
    assert lending(load)() == ["car"]
    assert not any(module.startswith("deeplearning") for module in sys.modules)
