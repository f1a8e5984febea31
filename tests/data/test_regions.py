"""Samples with regions: against the official mapper's arrays, and by hand."""

import numpy as np
import pytest
import torch
from PIL import Image

from fapn_d2.config.loading import load_config
from fapn_d2.data.mapper import PyramidDatasetMapper
from fapn_d2.data.regions import RegionDatasetMapper, build_mapper, label_regions
from tests.heads.mask_former.arrays import load


def config(*opts):
    plain = ["INPUT.MIN_SIZE_TRAIN", (0,), "INPUT.RANDOM_FLIP", "none", "INPUT.FORMAT", "RGB"]
    return load_config("", [*plain, "INPUT.REGIONS", "semantic", *opts])


def write(folder, image, labels):
    Image.fromarray(image).save(folder / "image.png")
    Image.fromarray(labels).save(folder / "labels.png")
    return {"file_name": str(folder / "image.png"), "sem_seg_file_name": str(folder / "labels.png")}


@pytest.mark.parametrize("i", [0, 1, 2])
def test_samples_are_those_of_the_official_mapper(reference, tmp_path, i):
    meta, arrays = load(reference, "mapper")
    record = write(tmp_path, arrays[f"in/{i}/image"].numpy(), arrays[f"in/{i}/label"].numpy())
    cfg = config("INPUT.SIZE_DIVISIBILITY", meta["size_divisibility"], "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 255)
    sample = build_mapper(cfg, is_train=True)(record)
    assert sample["image"].dtype == torch.uint8
    assert torch.equal(sample["image"], arrays[f"out/{i}/image"])
    assert torch.equal(sample["sem_seg"].byte(), arrays[f"out/{i}/sem_seg"])
    assert torch.equal(sample["instances"].gt_classes, arrays[f"out/{i}/gt_classes"])
    assert torch.equal(sample["instances"].gt_masks.tensor.byte(), arrays[f"out/{i}/gt_masks"])


def test_regions_by_hand():
    classes, masks = label_regions(torch.tensor([[3, 0, 255], [3, 3, 255]]), 255)
    assert classes.tolist() == [0, 3]
    assert masks.tolist() == [[[False, True, False], [False] * 3], [[True, False, False], [True, True, False]]]


def test_panoptic_regions_are_objects_and_stuff(tmp_path):
    labels = np.zeros((20, 30), np.uint8)
    labels[10:] = 2
    labels[:, 25:] = 255
    record = write(tmp_path, np.zeros((20, 30, 3), np.uint8), labels) | {
        "annotations": [
            {"bbox": [2, 3, 6, 5], "bbox_mode": 1, "category_id": 1, "segmentation": [[2, 3, 8, 3, 8, 8, 2, 8]]}
        ]
    }
    cfg = config(
        *("INPUT.REGIONS", "panoptic", "INPUT.MASK_FORMAT", "bitmask", "MODEL.MASK_ON", True),
        *("MODEL.ROI_HEADS.NUM_CLASSES", 4, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3, "INPUT.SIZE_DIVISIBILITY", 32),
    )
    sample = build_mapper(cfg, is_train=True)(record)
    assert sample["image"].shape == (3, 32, 32) and sample["image"][:, 25, 5].tolist() == [128] * 3
    regions = sample["instances"]
    assert regions.gt_classes.tolist() == [1, 4 + 2 - 1] and regions.image_size == (32, 32)
    thing, stuff = regions.gt_masks.tensor
    assert thing.sum() == 30 and thing[3:8, 2:8].all()
    assert stuff.sum() == 10 * 25 and stuff[10:20, :25].all()
    record["annotations"] = []
    assert build_mapper(cfg, is_train=True)(record)["instances"].gt_classes.tolist() == [5]


def test_inference_is_the_parents(tmp_path):
    record = write(tmp_path, np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30), np.uint8))
    sample = build_mapper(config("INPUT.MIN_SIZE_TEST", 0, "INPUT.SIZE_DIVISIBILITY", 32), is_train=False)(record)
    assert sample["image"].shape == (3, 20, 30) and "instances" not in sample


def test_mistakes_are_named(tmp_path):
    assert type(build_mapper(config("INPUT.REGIONS", ""), is_train=True)) is PyramidDatasetMapper
    assert type(build_mapper(config(), is_train=True)) is RegionDatasetMapper
    with pytest.raises(ValueError, match=r"INPUT.REGIONS is 'sematic'; allowed are '', 'semantic', 'panoptic'"):
        build_mapper(config("INPUT.REGIONS", "sematic"), is_train=True)
    with pytest.raises(ValueError, match=r"set INPUT.REGIONS, or -1 here"):
        build_mapper(config("INPUT.REGIONS", "", "INPUT.SIZE_DIVISIBILITY", 32), is_train=True)
    with pytest.raises(ValueError, match=r"set MODEL.MASK_ON True and INPUT.MASK_FORMAT 'bitmask'"):
        build_mapper(config("INPUT.REGIONS", "panoptic"), is_train=True)
    record = write(tmp_path, np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30), np.uint8))
    del record["sem_seg_file_name"]
    with pytest.raises(ValueError, match=r"'semantic' needs semantic labels, of which .*image.png has none"):
        build_mapper(config(), is_train=True)(record)
