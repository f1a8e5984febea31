import json
import logging

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.projects.point_rend import add_pointrend_config

from fapn_d2 import add_fapn_config
from fapn_d2.data import check_dataset, check_datasets
from tests.toys.coco import write_coco


def _touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


@pytest.fixture
def register():
    """Register a data set for one test."""
    names = []

    def add(name, load=list, **metadata):
        DatasetCatalog.register(name, load)
        MetadataCatalog.get(name).set(**metadata)
        names.append(name)
        return name

    yield add
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def semantic(cfg):
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 11
    cfg.DATASETS.TRAIN = ("camvid_sem_seg_train",)
    return cfg


def test_unknown_name_suggests_the_nearest(cfg):
    with pytest.raises(ValueError, match=r'"camvid_semseg_train" is not registered; .*; nearest: camvid_sem_seg_train'):
        check_dataset(cfg, "camvid_semseg_train")
    with pytest.raises(ValueError, match=r"own data: .*see DatasetCatalog.list\(\)"):
        check_dataset(cfg, "???")


def test_whole_camvid_passes_and_half_of_it_does_not(semantic, root):
    with pytest.raises(FileNotFoundError) as caught:
        check_dataset(semantic, "camvid_sem_seg_train")
    message = str(caught.value)
    assert f"data set camvid_sem_seg_train: folder {root}/camvid/train is absent" in message
    assert "prepare_camvid.py" in message and f"DETECTRON2_DATASETS is {root}" in message
    _touch(root / "camvid", "train/a.jpg", "trainannot/a.png")
    check_dataset(semantic, "camvid_sem_seg_train")
    _touch(root / "camvid", "train/b.jpg", "train/c.jpg")
    with pytest.raises(FileNotFoundError, match=r"2 of 3 images in .*camvid/train have no label \(b, c\)"):
        check_dataset(semantic, "camvid_sem_seg_train")
    (root / "camvid/trainannot/a.png").rename(root / "camvid/trainannot/x.png")
    with pytest.raises(FileNotFoundError, match=r"no image in .* has a label of the same name"):
        check_dataset(semantic, "camvid_sem_seg_train")


def test_a_union_without_folders_of_its_own(semantic, root):
    _touch(root / "camvid", "train/a.jpg", "trainannot/a.png")
    with pytest.raises(FileNotFoundError, match=r"data set camvid_sem_seg_trainval: folder .*camvid/val is absent"):
        check_dataset(semantic, "camvid_sem_seg_trainval")
    _touch(root / "camvid", "val/b.png", "valannot/b.png")
    check_dataset(semantic, "camvid_sem_seg_trainval")


def test_shapes_in_all_forms(cfg, shapes):
    cfg.MODEL.META_ARCHITECTURE = "PanopticFPN"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 6, 4
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("shapes_train_panoptic_separated",), ("shapes_val_panoptic_separated",)
    check_datasets(cfg)
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 9
    check_datasets(cfg, "shapes_val_sem_seg")
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    cfg.MODEL.RETINANET.NUM_CLASSES = 6
    check_datasets(cfg, ["shapes_train", "shapes_val"])


@pytest.mark.parametrize(
    "lost,what",
    [
        ("val/000002.jpg", r"1 of the 3 images that .*instances_val.json mentions are not in .*val \(000002.jpg\)"),
        ("panoptic_stuff_val/000001.png", r"1 of the 3 semantic labels"),
        ("panoptic_val/000003.png", r"1 of the 3 panoptic labels that .*panoptic_val.json"),
        ("annotations/instances_val.json", r"annotations .*instances_val.json are absent"),
        ("annotations/panoptic_val.json", r"annotations .*panoptic_val.json are absent"),
    ],
)
def test_half_there(cfg, shapes, lost, what):
    (shapes / lost).rename(shapes / "hidden")
    try:
        with pytest.raises(FileNotFoundError, match=what):
            check_dataset(cfg, "shapes_val_panoptic_separated")
    finally:
        (shapes / "hidden").rename(shapes / lost)


def test_numbers_of_classes(cfg, shapes):
    cfg.MODEL.META_ARCHITECTURE = "PanopticFPN"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 80, 4
    name = "shapes_train_panoptic_separated"
    with pytest.raises(
        ValueError,
        match=r"has 6 classes of objects \(disc, square, triangle, star, \.\.\.\), MODEL.ROI_HEADS.NUM_CLASSES is 80; "
        "set it to 6",
    ):
        check_dataset(cfg, name)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 6, 3
    with pytest.raises(ValueError, match=r"4 classes of regions \(things, sky, grass, sand\), MODEL.SEM_SEG_HEAD"):
        check_dataset(cfg, name)
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    check_dataset(cfg, name)


@pytest.mark.parametrize("network", ["RetinaNet", "ConsistentRetinaNet", "FCOS", "ConsistentFCOS"])
def test_numbers_of_classes_of_dense_detectors(cfg, shapes, network):
    add_fapn_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = network
    key = network.removeprefix("Consistent").upper()
    with pytest.raises(ValueError, match=rf"MODEL\.{key}\.NUM_CLASSES is 80; set it to 6"):
        check_dataset(cfg, "shapes_train")
    cfg.MODEL[key].NUM_CLASSES = 6
    check_dataset(cfg, "shapes_train")
    with pytest.raises(
        ValueError, match=rf"has labels of regions only, MODEL.META_ARCHITECTURE {network} needs objects"
    ):
        check_dataset(cfg, "shapes_train_sem_seg")


def test_point_heads_count_classes_too(cfg, shapes):
    add_pointrend_config(cfg)
    add_fapn_config(cfg)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.MASK_ON = "GeneralizedRCNN", True
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 6
    check_dataset(cfg, "shapes_val")
    cfg.MODEL.ROI_MASK_HEAD.POINT_HEAD_ON = True
    with pytest.raises(ValueError, match=r"MODEL.POINT_HEAD.NUM_CLASSES is 80; set it to 6"):
        check_dataset(cfg, "shapes_val")
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 9
    check_dataset(cfg, "shapes_val_sem_seg")
    cfg.MODEL.SEM_SEG_HEAD.NAME = "PointRendSemSegHead"
    with pytest.raises(ValueError, match=r"MODEL.POINT_HEAD.NUM_CLASSES is 80; set it to 9"):
        check_dataset(cfg, "shapes_val_sem_seg")


def test_ignore_value_matters_in_training(semantic, root):
    _touch(root / "camvid", "train/a.jpg", "trainannot/a.png", "val/b.jpg", "valannot/b.png")
    semantic.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 255
    with pytest.raises(ValueError, match=r"unlabelled pixels with 11, MODEL.SEM_SEG_HEAD.IGNORE_VALUE is 255"):
        check_dataset(semantic, "camvid_sem_seg_train")
    check_dataset(semantic, "camvid_sem_seg_val")


def test_labels_that_the_model_needs(cfg, shapes):
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    with pytest.raises(
        ValueError,
        match=r"shapes_val has labels of objects only, .*SemanticSegmentor needs regions; try shapes_val_sem",
    ):
        check_dataset(cfg, "shapes_val")
    cfg.MODEL.META_ARCHITECTURE = "PanopticFPN"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 6
    check_dataset(cfg, "shapes_val")  # boxes and masks of a panoptic model may be scored alone
    cfg.DATASETS.TRAIN = ("shapes_val",)
    with pytest.raises(ValueError, match=r"labels of objects only, .*PanopticFPN needs objects and regions; try "):
        check_dataset(cfg, "shapes_val")


def test_a_users_coco_file_tells_its_classes(cfg, shapes, register):
    name = "users"
    register_coco_instances(name, {}, str(shapes / "annotations/instances_val.json"), str(shapes / "val"))
    try:
        with pytest.raises(ValueError, match=r"users has 6 classes of objects"):
            check_dataset(cfg, name)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_a_users_records_without_metadata(cfg, root, register):
    _touch(root, "a.jpg", "b.jpg")
    records = [{"file_name": str(root / n)} for n in ("a.jpg", "b.jpg", "c.jpg")]
    check_dataset(cfg, register("whole", lambda: records[:2]))
    with pytest.raises(FileNotFoundError, match=r"data set part: 1 of its 3 images are absent \(.*c.jpg\)"):
        check_dataset(cfg, register("part", lambda: records))
    check_dataset(cfg, register("remote", lambda: [{"file_name": "s3://bucket/a.jpg"}]))


def test_unlisted_meta_architectures_are_not_asked_for_classes(cfg, shapes):
    cfg.MODEL.META_ARCHITECTURE = "PanopticDeepLab"
    check_dataset(cfg, "shapes_val")


def test_cityscapes_city_by_city(semantic, root, register):
    images, labels = root / "leftImg8bit/train", root / "gtFine/train"
    name = register(
        "streets",
        image_dir=f"{images}/",
        gt_dir=f"{labels}/",
        evaluator_type="cityscapes_sem_seg",
        ignore_label=11,
        stuff_classes=["a"] * 11,
    )
    with pytest.raises(FileNotFoundError, match=r"folder .*leftImg8bit/train/ is absent"):
        check_dataset(semantic, name)
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"holds no folder of a city"):
        check_dataset(semantic, name)
    for city in ("aachen", "bonn"):
        _touch(root, f"leftImg8bit/train/{city}/{city}_0_leftImg8bit.png")
        _touch(root, f"gtFine/train/{city}/{city}_0_gtFine_labelTrainIds.png")
    check_dataset(semantic, name)
    _touch(root, "leftImg8bit/train/bonn/bonn_1_leftImg8bit.png")
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images in .*bonn have no label \(bonn_1\)"):
        check_dataset(semantic, name)


def test_file_names_are_read_as_json_writes_them(cfg, root, register):
    names = ['qu"ote.jpg', "ümlaut.jpg", "sub/folder.jpg"]
    _touch(root / "images", *names)
    path = root / "annotations.json"
    path.write_text(json.dumps({"images": [{"file_name": n, "id": i} for i, n in enumerate(names)]}, indent=1))
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    name = register("odd", json_file=str(path), image_root=str(root / "images"), evaluator_type="coco")
    check_dataset(cfg, name)
    (root / "images/sub/folder.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the 3 images .* \(sub/folder.jpg\)"):
        check_dataset(cfg, name)
    for cut in ("", path.read_text()[:-9]):
        path.write_text(cut)
        with pytest.raises(ValueError, match=r"annotations.json are cut short"):
            check_dataset(cfg, name)


def test_real_coco(cfg, real_images, tmp_path, register, caplog):
    folder = write_coco(tmp_path, real_images) / "coco"
    names = [
        register(
            f"coco_photographs_{split}",
            json_file=str(folder / f"annotations/instances_{split}2017.json"),
            image_root=str(folder / f"{split}2017"),
            evaluator_type="coco",
            thing_classes=MetadataCatalog.get("coco_2017_val").thing_classes,
        )
        for split in ("train", "val")
    ]
    with caplog.at_level(logging.INFO):
        check_datasets(cfg, names)
    assert "Loaded" not in caplog.text  # the annotations were not parsed
