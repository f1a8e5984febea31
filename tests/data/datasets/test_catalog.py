import logging
import subprocess
import sys

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from fapn_d2.config.loading import load_config
from fapn_d2.data.datasets.catalog import data_root, register


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
assert DatasetCatalog.get(name) == ["theirs"] and MetadataCatalog.get(name).stuff_classes == ["Bird"]
assert len(MetadataCatalog.get("mapillary_vistas_sem_seg_test").stuff_classes) == 65
"""


@pytest.mark.parametrize("order", [("import fapn_d2", OTHER_PROJECT), (OTHER_PROJECT, "import fapn_d2")])
def test_mask2former_registers_mapillary_before_or_after_our_import(order):
    program = "\n".join((*order, CHECK))
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "registered already" not in done.stderr, done.stderr


def test_mapillary_is_ours_where_nobody_else_registers_it():
    load_config()
    metadata = MetadataCatalog.get("mapillary_vistas_sem_seg_val")
    assert metadata.stuff_classes[0] == "animal--bird" and "mapillary_vistas_sem_seg_train" in DatasetCatalog
