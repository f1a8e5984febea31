"""Records for training: what Detectron2 asserts, or passes over, is said."""

import logging

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from fapn_d2.config.loading import load_config
from fapn_d2.data.loaders import build_train_loader
from fapn_d2.data.records import needs_masks, training_records

SQUARE = [0.0, 0.0, 4.0, 0.0, 4.0, 4.0, 0.0, 4.0]


@pytest.fixture
def register():
    def add(*annotations, load=None):
        annotations = [{"category_id": 0, "bbox_mode": BoxMode.XYWH_ABS, "iscrowd": 0, **a} for a in annotations]
        record = {"file_name": "a.jpg", "height": 8, "width": 8, "annotations": annotations}
        DatasetCatalog.register("three", load or (lambda: [record]))
        MetadataCatalog.get("three").set(thing_classes=["x"])

    yield add
    DatasetCatalog.remove("three")
    MetadataCatalog.remove("three")


def test_objects_without_masks(register):
    box = {"bbox": [0, 0, 4, 4]}
    register(box | {"segmentation": [SQUARE]}, box, box | {"iscrowd": 1})
    assert len(training_records(["three"], masks=False)) == 1
    with pytest.raises(ValueError, match=r"1 of the 2 objects in three have no mask \(the first is in a.jpg\), but"):
        training_records(["three"], masks=True)


def test_boxes_without_area_are_told(register, caplog):
    register({"bbox": [0, 0, -4, 4]}, {"bbox": [0, 0, float("nan"), 4]}, {"bbox": [1, 1, 2, 2]})
    with caplog.at_level(logging.WARNING, "fapn_d2"):
        training_records(["three"], masks=False)
    assert "2 of the 3 objects in three have boxes without area" in caplog.text and "(a.jpg)" in caplog.text


def test_no_annotations(register):
    register()
    with pytest.raises(ValueError, match=r"data sets three have no image with annotations, so that there"):
        training_records(["three"], masks=False)


def test_a_category_that_does_not_exist(register):
    def load():
        raise KeyError("Encountered category_id=7 but this id does not exist in 'categories' of the json file.")

    register(load=load)
    with pytest.raises(ValueError, match=r"data sets three: Encountered category_id=7"):
        training_records(["three"], masks=False)


def test_no_data_set_and_who_needs_masks():
    with pytest.raises(ValueError, match=r"DATASETS.TRAIN is empty"):
        build_train_loader(load_config())
    assert not needs_masks(load_config("", ["MODEL.MASK_ON", "True", "MODEL.META_ARCHITECTURE", "RetinaNet"]))
    assert needs_masks(load_config("", ["MODEL.MASK_ON", "True", "MODEL.META_ARCHITECTURE", "GeneralizedRCNN"]))
    joint = ["MODEL.MASK_ON", "True", "MODEL.META_ARCHITECTURE", "TwoTaskPanopticFPN"]
    assert needs_masks(load_config("", joint))
    assert not needs_masks(load_config("", [*joint, "MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT", "0.0"]))
