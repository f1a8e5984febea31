import copy
import importlib.util
import random

import cv2
import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BoxMode
from PIL import Image

from fapn_d2.data.mapper import PyramidDatasetMapper
from fapn_d2.data.reading import BadImageError


@pytest.fixture
def cfg(cfg):
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 4
    cfg.INPUT.MIN_SIZE_TRAIN = (80, 112)
    return cfg


@pytest.fixture
def records(shapes):
    return DatasetCatalog.get("shapes_train_panoptic_separated")


def _seed(seed):
    np.random.seed(seed)
    random.seed(seed)


@pytest.fixture
def square(tmp_path):
    """A record of one 20 x 30 image (H x W) with one object, x in 10..20 and y in 5..15, and its label."""
    Image.new("RGB", (30, 20), (200, 100, 50)).save(tmp_path / "image.png")
    label = np.zeros((20, 30), np.uint8)
    label[5:15, 10:20] = 3
    Image.fromarray(label).save(tmp_path / "label.png")
    polygon = [10.0, 5.0, 20.0, 5.0, 20.0, 15.0, 10.0, 15.0]
    return {
        "file_name": str(tmp_path / "image.png"),
        "sem_seg_file_name": str(tmp_path / "label.png"),
        "annotations": [
            {
                "bbox": [10.0, 5.0, 20.0, 15.0],
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": 2,
                "segmentation": [polygon],
                "iscrowd": 0,
            }
        ],
    }


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_without_crops_it_equals_detectron2s(cfg, records, mask_format):
    cfg.INPUT.MASK_FORMAT = mask_format
    ours, theirs = PyramidDatasetMapper(cfg, True), DatasetMapper(cfg, True)
    for i, record in enumerate(records):
        before = copy.deepcopy(record)
        _seed(i)
        a = ours(record)
        assert record == before
        _seed(i)
        b = theirs(record)
        assert a.keys() == b.keys()
        assert torch.equal(a["image"], b["image"]) and torch.equal(a["sem_seg"], b["sem_seg"])
        x, y = a["instances"], b["instances"]
        assert torch.equal(x.gt_boxes.tensor, y.gt_boxes.tensor) and torch.equal(x.gt_classes, y.gt_classes)
        if mask_format == "bitmask":
            assert torch.equal(x.gt_masks.tensor, y.gt_masks.tensor)
        else:
            assert all((p == q).all() for a, b in zip(x.gt_masks, y.gt_masks) for p, q in zip(a, b))


def test_inference_reads_no_labels(cfg, square):
    square["sem_seg_file_name"] = "absent.png"
    sample = PyramidDatasetMapper(cfg, False)(square)
    assert sample.keys() == {"file_name", "image", "height", "width"}
    assert sample["image"].shape == (3, 800, 1200) and (sample["height"], sample["width"]) == (20, 30)


def test_semantic_and_instance_records_alone(cfg, square):
    mapper = PyramidDatasetMapper(cfg, True)
    semantic = mapper({k: v for k, v in square.items() if k != "annotations"})
    assert semantic["sem_seg"].dtype == torch.int64 and "instances" not in semantic
    objects = mapper({k: v for k, v in square.items() if k != "sem_seg_file_name"})
    assert len(objects["instances"]) == 1 and "sem_seg" not in objects


class _Crop(T.Augmentation):
    def __init__(self, *box):
        super().__init__()
        self.box = box

    def get_transform(self, image):
        return T.CropTransform(*self.box)


def _mapper(cfg, *augmentations, **kwargs):
    arguments = PyramidDatasetMapper.from_config(cfg, True) | {"augmentations": list(augmentations)} | kwargs
    return PyramidDatasetMapper(**arguments)


def test_polygons_are_cropped_without_shapely(cfg, square):
    cfg.INPUT.MASK_FORMAT = "bitmask"
    sample = _mapper(cfg, _Crop(15, 8, 12, 10), recompute_boxes=True)(square)
    expected = np.zeros((10, 12), bool)
    expected[:7, :5] = True
    assert (sample["instances"].gt_masks.tensor[0].numpy() == expected).all()
    assert sample["instances"].gt_boxes.tensor.tolist() == [[0, 0, 5, 7]]
    assert ((sample["sem_seg"] == 3).numpy() == expected).all()


def test_cropped_polygons_equal_cropped_masks(cfg, records):
    cfg.INPUT.MASK_FORMAT = "bitmask"
    rng = np.random.RandomState(0)
    for record in records:
        x, y = rng.randint(0, 60), rng.randint(0, 40)
        mapper = _mapper(cfg, _Crop(x, y, 64, 48), recompute_boxes=True)
        polygons = mapper(record)["instances"]
        as_rle = copy.deepcopy(record)
        for annotation in as_rle["annotations"]:
            rle = coco_mask.frPyObjects(annotation["segmentation"], record["height"], record["width"])
            annotation["segmentation"] = coco_mask.merge(rle)
        masks = mapper(as_rle)["instances"]
        assert torch.equal(polygons.gt_boxes.tensor, masks.gt_boxes.tensor)
        assert torch.equal(polygons.gt_masks.tensor, masks.gt_masks.tensor)


def test_a_crop_without_objects_gives_none(cfg, square):
    cfg.INPUT.MASK_FORMAT = "bitmask"
    mapper = _mapper(cfg, _Crop(0, 0, 8, 5), recompute_boxes=True)
    assert len(mapper(square)["instances"]) == 0
    assert len(mapper(square | {"annotations": []})["instances"]) == 0


def test_padding_is_no_part_of_an_object(cfg, square):
    """fvcore pads instance masks with the value meant for class labels."""
    cfg.INPUT.MASK_FORMAT = "bitmask"
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.INPUT.SCALE_CROP.ENABLED = True
    cfg.INPUT.SCALE_CROP.SCALES, cfg.INPUT.SCALE_CROP.SIZE = (1.0, 1.0), (40, 40)
    square["annotations"][0]["segmentation"] = coco_mask.encode(
        np.asfortranarray(np.asarray(Image.open(square["sem_seg_file_name"])) == 3).astype(np.uint8)
    )
    sample = PyramidDatasetMapper(cfg, True)(square)
    assert sample["image"].shape == (3, 40, 40)
    assert sample["instances"].gt_masks.tensor.sum() == 100
    assert sample["instances"].gt_boxes.tensor.tolist() == [[15, 15, 25, 25]]
    assert (sample["sem_seg"] == 3).sum() == 100 and (sample["sem_seg"] == 255).sum() == 40 * 40 - 600


def test_crowds_are_left_out(cfg, square):
    square["annotations"].append(square["annotations"][0] | {"iscrowd": 1})
    assert len(PyramidDatasetMapper(cfg, True)(square)["instances"]) == 1


def test_sixteen_bit_labels_survive_resizing(cfg, square):
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 1001
    cfg.INPUT.MIN_SIZE_TRAIN = (40,)
    labels = np.full((20, 30), 1000, np.uint16)
    Image.fromarray(labels).save(square["sem_seg_file_name"])
    sample = PyramidDatasetMapper(cfg, True)(square)
    assert sample["sem_seg"].shape == (40, 60) and (sample["sem_seg"] == 1000).all()


def test_wrong_files_are_named(cfg, square, tmp_path):
    mapper = PyramidDatasetMapper(cfg, True)
    with pytest.raises(BadImageError, match=r"image.png, got \(30, 20\), expect \(31, 20\)"):
        mapper(square | {"height": 20, "width": 31})
    with pytest.raises(FileNotFoundError, match=r"image nowhere.jpg does not exist"):
        mapper(square | {"file_name": "nowhere.jpg"})
    Image.new("L", (30, 21)).save(tmp_path / "taller.png")
    with pytest.raises(BadImageError, match=r"image.png has 20 x 30 pixels .*taller.png has 21 x 30"):
        mapper(square | {"sem_seg_file_name": str(tmp_path / "taller.png")})
    mapper.num_classes = 3
    with pytest.raises(ValueError, match=r"label.png holds the values 3; allowed are 0..2"):
        mapper(square)


class _Mapped(torch.utils.data.Dataset):
    """Records after the mapper, and what OpenCV uses where it ran."""

    def __init__(self, mapper, *records):
        self.mapper, self.records = mapper, records

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        self.mapper(self.records[index])
        return cv2.getNumThreads()


def test_errors_come_out_of_loader_processes(cfg, square, tmp_path):
    """Detectron2's trainer sees what a loader process raised, with the name in it."""
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8broken")
    records = [square | {"file_name": "nowhere.jpg"}, square | {"file_name": str(tmp_path / "broken.jpg")}]
    batches = iter(torch.utils.data.DataLoader(_Mapped(PyramidDatasetMapper(cfg, True), *records), num_workers=1))
    with pytest.raises(FileNotFoundError, match=r"nowhere.jpg does not exist"):
        next(batches)
    with pytest.raises(BadImageError, match=r"broken.jpg cannot be read"):
        next(batches)
    assert next(batches, None) is None


def test_loader_processes_use_one_opencv_thread(cfg, square):
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        dataset = _Mapped(PyramidDatasetMapper(cfg, True), square)
        assert int(next(iter(torch.utils.data.DataLoader(dataset, num_workers=1)))) == 1
        assert dataset[0] == 2  # the user's own process keeps its threads
    finally:
        cv2.setNumThreads(before)


def test_settings_that_cannot_work_are_refused(cfg, square, monkeypatch):
    cfg.INPUT.CROP.ENABLED = True
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("fapn_d2.data.mapper.find_spec", lambda n: None if n == "shapely" else find_spec(n))
    with pytest.raises(ValueError, match=r'set INPUT.MASK_FORMAT "bitmask" or install shapely'):
        PyramidDatasetMapper(cfg, True)
    PyramidDatasetMapper(cfg, False)
    cfg.INPUT.MASK_FORMAT = "bitmask"
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 0.5
    del square["sem_seg_file_name"]
    with pytest.raises(ValueError, match=r"SINGLE_CATEGORY_MAX_AREA < 1 needs semantic labels.*image.png has none"):
        PyramidDatasetMapper(cfg, True)(square)


def test_run_length_masks_need_bitmask(cfg, square):
    square["annotations"][0]["segmentation"] = {"size": [20, 30], "counts": b"x"}
    with pytest.raises(ValueError, match=r'image.png: an object is given as a run-length mask.*"bitmask"'):
        PyramidDatasetMapper(cfg, True)(square)


def test_photographs_with_their_objects(cfg, real_images):
    """Crops of photographs larger and smaller than the crop: boxes fit their masks, crowds are left out."""
    cfg.INPUT.SCALE_CROP.ENABLED = True
    cfg.INPUT.SCALE_CROP.SIZE = (400, 560)
    cfg.INPUT.MASK_FORMAT = "bitmask"
    cfg.INPUT.COLOR_AUG_SSD = True
    mapper = PyramidDatasetMapper(cfg, True)
    found = 0
    _seed(0)
    for record in load_coco_json(str(real_images / "instances.json"), str(real_images / "photographs")):
        sample = mapper(record)
        instances = sample["instances"]
        assert sample["image"].shape == (3, 400, 560) and instances.image_size == (400, 560)
        assert len(instances) <= sum(not a["iscrowd"] for a in record["annotations"])
        for mask, box in zip(instances.gt_masks.tensor, instances.gt_boxes.tensor):
            rows, columns = torch.nonzero(mask, as_tuple=True)
            around = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box.tolist() == [float(edge) for edge in around]
        found += len(instances)
    assert found > 10


def test_real_images(cfg, shared, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shared / "data"))
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 11, 11
    cfg.INPUT.SCALE_CROP.ENABLED = True
    cfg.INPUT.SCALE_CROP.SIZE = (360, 480)
    cfg.INPUT.MASK_FORMAT = "bitmask"
    cfg.INPUT.COLOR_AUG_SSD = True
    mapper = PyramidDatasetMapper(cfg, True)
    for record in DatasetCatalog.get("camvid_sem_seg_val")[::25]:
        sample = mapper(record)
        assert sample["image"].shape == (3, 360, 480) and sample["sem_seg"].shape == (360, 480)
        assert sample["sem_seg"].max() <= 11 and len(sample["sem_seg"].unique()) > 4
