import logging

from detectron2.data import DatasetCatalog, MetadataCatalog

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
