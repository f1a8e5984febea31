import logging
import os
import subprocess
import sys

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from fapn_d2.config.loading import load_config
from fapn_d2.data.datasets.ade20k import complete_ade20k
from fapn_d2.data.datasets.camvid import register_camvid
from fapn_d2.data.datasets.catalog import data_root, locate, register
from fapn_d2.data.datasets.cityscapes import complete_cityscapes, repair_cityscapes
from fapn_d2.data.datasets.coco_stuff import register_coco_stuff
from fapn_d2.data.datasets.coco_stuff_2017 import register_coco_stuff_2017
from fapn_d2.data.datasets.coco_subset import register_coco_subsets
from fapn_d2.data.datasets.mapillary import register_mapillary
from fapn_d2.data.datasets.pascal_context import register_pascal_context
from fapn_d2.data.datasets.shapes import register_shapes
from fapn_d2.data.datasets.unlabelled import register_unlabelled


def test_the_root_is_read_at_call_time(monkeypatch):
    register("moving", lambda root: [{"root": root}], paths={"image_root": "moving/images"}, evaluator_type="coco")
    try:
        for root in ("a", "b"):
            monkeypatch.setenv("DETECTRON2_DATASETS", root)
            assert DatasetCatalog.get("moving") == [{"root": root}]
            assert MetadataCatalog.get("moving").image_root == f"{root}/moving/images"
        monkeypatch.delenv("DETECTRON2_DATASETS")
        assert data_root() == "datasets"
    finally:
        DatasetCatalog.remove("moving")
        MetadataCatalog.remove("moving")


def test_a_name_that_is_taken_stays_its_owners(caplog):
    before = DatasetCatalog["coco_2017_val"]
    with caplog.at_level(logging.WARNING, "fapn_d2"):
        register("coco_2017_val", lambda root: [], paths={})
    assert DatasetCatalog["coco_2017_val"] is before
    assert "coco_2017_val is registered already" in caplog.text


OTHER_PROJECT = """
from detectron2.data import DatasetCatalog, MetadataCatalog

for split in ("train", "val"):  # the names, class names and layout of Mask2Former
    name = f"mapillary_vistas_sem_seg_{split}"
    DatasetCatalog.register(name, lambda: ["theirs"])
    MetadataCatalog.get(name).set(
        stuff_classes=["Bird"], image_root="there", evaluator_type="sem_seg", ignore_label=65, stuff_colors=[[1, 2, 3]]
    )
"""
CHECK = """
from detectron2.config import get_cfg
fapn_d2.add_fapn_config(get_cfg())
fapn_d2.add_fapn_config(get_cfg())
for name in ("mapillary_vistas_sem_seg_train", "mapillary_vistas_sem_seg_val"):
    assert DatasetCatalog.get(name) == ["theirs"] and MetadataCatalog.get(name).stuff_classes == ["Bird"]
assert len(MetadataCatalog.get("mapillary_vistas_sem_seg_test").stuff_classes) == 65
"""


OTHER_DATA_SETS = """
from detectron2.data import DatasetCatalog, MetadataCatalog

NAMES = (
    *(f"shapes_{split}{kind}" for split in ("train", "val") for kind in ("", "_sem_seg", "_panoptic_separated")),
    *("ade20k_sem_seg_test", "cityscapes_fine_panoptic_test", "coco_2017_test_panoptic_separated"),
)
for name in NAMES:
    DatasetCatalog.register(name, lambda: ["theirs"])
    MetadataCatalog.get(name).set(stuff_classes=["theirs"], thing_classes=["square"])
"""
CHECK_DATA_SETS = """
from detectron2.config import get_cfg
fapn_d2.add_fapn_config(get_cfg())
fapn_d2.add_fapn_config(get_cfg())
for name in NAMES:
    assert DatasetCatalog.get(name) == ["theirs"], name
    metadata = MetadataCatalog.get(name)
    assert metadata.stuff_classes == ["theirs"] and metadata.thing_classes == ["square"], name
    assert not metadata.get("submission") and not metadata.get("stuff_colors"), name
# names that the other project does not have are ours
assert MetadataCatalog.get("shapes_val_panoptic_stuffonly").stuff_classes[0] == "things"
assert MetadataCatalog.get("cityscapes_fine_sem_seg_test").submission
"""


def test_mapillary_is_ours_where_nobody_else_registers_it():
    load_config()
    metadata = MetadataCatalog.get("mapillary_vistas_sem_seg_val")
    assert metadata.stuff_classes[0] == "animal--bird" and "mapillary_vistas_sem_seg_train" in DatasetCatalog


OTHER_METADATA = """
from detectron2.data import DatasetCatalog, MetadataCatalog

for name in ("ade20k_sem_seg_train", "ade20k_sem_seg_val", "cityscapes_fine_sem_seg_train"):
    MetadataCatalog.get(name).set(stuff_colors=[[1, 2, 3]])
DatasetCatalog.remove("ade20k_sem_seg_val")  # as others do who replace its classes
MetadataCatalog.remove("ade20k_sem_seg_val")
DatasetCatalog.register("ade20k_sem_seg_val", lambda: ["theirs"])
MetadataCatalog.get("ade20k_sem_seg_val").set(stuff_classes=["wall", "door"])
"""
CHECK_METADATA = """
from detectron2.config import get_cfg
fapn_d2.add_fapn_config(get_cfg())
fapn_d2.add_fapn_config(get_cfg())
for name in ("ade20k_sem_seg_train", "cityscapes_fine_sem_seg_train"):
    assert MetadataCatalog.get(name).stuff_colors == [[1, 2, 3]], name
theirs = MetadataCatalog.get("ade20k_sem_seg_val")
assert theirs.stuff_classes == ["wall", "door"] and not theirs.get("stuff_colors")
assert DatasetCatalog.get("ade20k_sem_seg_val") == ["theirs"]
assert len(MetadataCatalog.get("cityscapes_fine_sem_seg_val").stuff_colors) == 19
"""


OTHERS = "\n".join((OTHER_PROJECT, OTHER_DATA_SETS, OTHER_METADATA))
OURS = "import fapn_d2"


@pytest.mark.parametrize("order", [(OURS, OTHERS), (OTHERS, OURS)], ids=["before", "after"])
def test_another_project_registers_its_own_before_or_after_our_import(order):
    """Mapillary Vistas as in Mask2Former, names of ours, and other colours and classes of Detectron2's data sets."""
    program = "\n".join((*order, CHECK, CHECK_DATA_SETS, CHECK_METADATA))
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "mapillary_vistas_sem_seg_train is registered already" not in done.stderr
    assert done.stderr.count("shapes_train is registered already") == 1, done.stderr  # not once per config


def catalogs() -> tuple[dict, dict]:
    return dict(DatasetCatalog.data), {name: dict(MetadataCatalog.get(name).as_dict()) for name in DatasetCatalog}


def test_a_second_call_of_our_registrations_does_nothing(caplog):
    load_config()
    before = catalogs()
    with caplog.at_level(logging.WARNING, "fapn_d2"):
        for register_again in (
            *(register_camvid, register_coco_stuff, register_coco_stuff_2017, register_coco_subsets),
            register_mapillary,
            *(register_pascal_context, register_shapes, register_unlabelled),
            *(repair_cityscapes, complete_ade20k, complete_cityscapes),
        ):
            register_again()
    after = catalogs()
    assert {name for name in before[0] if before[0][name] is not after[0].get(name)} == set()
    assert after[1] == before[1] and list(after[0]) == list(before[0])
    assert "registered already" not in caplog.text


def test_who_replaces_our_data_set_keeps_it(monkeypatch, tmp_path):
    ours, metadata = DatasetCatalog["shapes_val"], MetadataCatalog["shapes_val"]
    DatasetCatalog.remove("shapes_val")
    MetadataCatalog.remove("shapes_val")
    try:
        DatasetCatalog.register("shapes_val", lambda: ["theirs"])
        MetadataCatalog.get("shapes_val").set(thing_classes=["cube"], json_file="theirs.json")
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
        register_shapes()
        locate("shapes_val")
        assert DatasetCatalog.get("shapes_val") == ["theirs"] and not list(tmp_path.iterdir())
        assert MetadataCatalog.get("shapes_val").thing_classes == ["cube"]
        assert MetadataCatalog.get("shapes_val").json_file == "theirs.json"
    finally:
        DatasetCatalog["shapes_val"], MetadataCatalog["shapes_val"] = ours, metadata


def test_a_list_of_images_needs_no_config(tmp_path):
    """``tools/submission.py check`` names a split and has no config."""
    program = (
        "import fapn_d2\n"
        "from fapn_d2.data.datasets.unlabelled import image_list\n"
        "print([record['image_id'] for record in image_list('ade20k_sem_seg_test')])"
    )
    folder = tmp_path / "ADEChallengeData2016" / "images" / "testing"
    folder.mkdir(parents=True)
    (folder / "a.jpg").touch()
    environment = os.environ | {"DETECTRON2_DATASETS": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.stdout == "['a']\n", done.stderr
