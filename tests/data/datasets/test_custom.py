"""Own data sets described under DATASETS.CUSTOM: records, class numbers, saved configs, and every message."""

import json
import os
from pathlib import Path

import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from fapn_d2.config.loading import load_config
from fapn_d2.data import check_dataset, check_datasets, register_custom
from fapn_d2.data.class_numbers import describe_class_numbers
from fapn_d2.data.datasets import custom
from fapn_d2.data.datasets.catalog import unregister
from fapn_d2.data.datasets.coco_json import categories

EXAMPLE = Path(__file__).resolve().parents[3] / "configs" / "quickstart" / "own_objects.yaml"
REGIONS = {"KIND": "regions", "IMAGES": "camvid/train", "LABELS": "camvid/trainannot", "IGNORE_VALUE": 11}
ELEVEN = [f"class {n}" for n in range(11)]


@pytest.fixture(autouse=True)
def _clean():
    yield
    for name in list(custom._registered):
        unregister(name)
        del custom._registered[name]


def write(folder, description, *, train=("mine",), **model):
    """A YAML file with data sets of the user; ``description`` is name -> fields."""
    path = folder / "mine.yaml"
    content = {"DATASETS": {"CUSTOM": description, "TRAIN": list(train), "TEST": []}, "MODEL": model}
    path.write_text(yaml.safe_dump(content))
    return str(path)


def semantic(folder, description, **model):
    return write(folder, description, META_ARCHITECTURE="SemanticSegmentor", **model)


def test_the_example_gives_the_records_of_shapes(shapes):
    cfg = load_config(str(EXAMPLE))
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 6
    ours, theirs = DatasetCatalog.get("own_train"), DatasetCatalog.get("shapes_train")
    assert ours == theirs and len(ours) == 6
    assert MetadataCatalog.get("own_train").thing_classes == MetadataCatalog.get("shapes_train").thing_classes
    check_datasets(cfg)
    classes = "6 classes of objects (disc, square, triangle and 3 more)"
    assert describe_class_numbers(cfg) == [f"MODEL.ROI_HEADS.NUM_CLASSES is 6: data set own_train has {classes}."]


def test_panoptic_data_gives_the_records_of_shapes(shapes, tmp_path):
    fields = {
        "KIND": "panoptic",
        "IMAGES": "shapes/val",
        "ANNOTATIONS": "shapes/annotations/panoptic_val.json",
        "LABELS": "shapes/panoptic_val",
        "OBJECTS": "shapes/annotations/instances_val.json",
        "REGIONS": "shapes/panoptic_stuff_val",
    }
    cfg = load_config(write(tmp_path, {"mine": fields}, META_ARCHITECTURE="PanopticFPN"))
    assert (cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES) == (6, 4)
    assert cfg.DATASETS.CUSTOM.mine.STUFF == ["sky", "grass", "sand"]
    check_datasets(cfg)
    reference = "shapes_val_panoptic_separated"
    assert DatasetCatalog.get("mine") == DatasetCatalog.get(reference)
    ours, theirs = MetadataCatalog.get("mine"), MetadataCatalog.get(reference)
    for key in ("thing_classes", "stuff_classes", "thing_dataset_id_to_contiguous_id", "panoptic_json", "sem_seg_root"):
        assert ours.get(key) == theirs.get(key), key
    stuff = {k: v for k, v in theirs.stuff_dataset_id_to_contiguous_id.items() if v}
    assert ours.stuff_dataset_id_to_contiguous_id == stuff


def test_regions_with_and_without_a_list(camvid, tmp_path):
    (tmp_path / "names.txt").write_text("3\n1\n")
    (tmp_path / "classes.txt").write_text("\n".join(ELEVEN))
    listed = REGIONS | {"CLASSES": str(tmp_path / "classes.txt"), "LIST": str(tmp_path / "names.txt")}
    cfg = load_config(semantic(tmp_path, {"mine": REGIONS | {"CLASSES": ELEVEN}, "listed": listed}))
    head = cfg.MODEL.SEM_SEG_HEAD
    assert (head.NUM_CLASSES, head.IGNORE_VALUE) == (11, 11)
    assert cfg.DATASETS.CUSTOM.listed.CLASSES == ELEVEN
    assert DatasetCatalog.get("mine") == DatasetCatalog.get("camvid_sem_seg_train")
    assert [Path(r["file_name"]).stem for r in DatasetCatalog.get("listed")] == ["3", "1"]
    check_datasets(cfg, ["mine", "listed"])


def test_a_folder_for_each_city(tmp_path):
    for city in ("aachen", "bonn"):
        for kind, name in (("images", "_leftImg8bit.png"), ("labels", "_gtFine_labelTrainIds.png")):
            (tmp_path / kind / city).mkdir(parents=True)
            (tmp_path / kind / city / f"{city}_1{name}").touch()
    fields = {
        "KIND": "cityscapes",
        "IMAGES": f"{tmp_path}/images",
        "LABELS": f"{tmp_path}/labels",
        "CLASSES": ["a", "b"],
    }
    cfg = load_config(semantic(tmp_path, {"mine": fields}))
    records = DatasetCatalog.get("mine")
    assert [os.path.relpath(r["file_name"], tmp_path) for r in records] == [
        "images/aachen/aachen_1_leftImg8bit.png",
        "images/bonn/bonn_1_leftImg8bit.png",
    ]
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 2 and cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE == 255
    (tmp_path / "labels/bonn/bonn_1_gtFine_labelTrainIds.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no labels .* under DATASETS.CUSTOM.mine in the config"):
        check_datasets(cfg)


def test_what_the_user_sets_wins_and_what_a_base_sets_does_not(camvid, tmp_path):
    (tmp_path / "base.yaml").write_text("MODEL: {SEM_SEG_HEAD: {NUM_CLASSES: 19}}")
    path = Path(semantic(tmp_path, {"mine": REGIONS | {"CLASSES": ELEVEN}}))
    path.write_text("_BASE_: base.yaml\n" + path.read_text())
    assert load_config(str(path)).MODEL.SEM_SEG_HEAD.NUM_CLASSES == 11
    cfg = load_config(str(path), ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "12"])
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 12
    with pytest.raises(ValueError, match=r"has 11 classes of regions .*NUM_CLASSES is 12; set it to 11"):
        check_datasets(cfg)
    assert load_config(str(path), ["DATASETS.TRAIN", "('camvid_sem_seg_train',)"]).MODEL.SEM_SEG_HEAD.NUM_CLASSES == 19


def test_a_saved_config_needs_no_data(shapes, tmp_path, monkeypatch):
    fields = {"KIND": "objects", "IMAGES": "shapes/val", "ANNOTATIONS": "shapes/annotations/instances_val.json"}
    cfg = load_config(write(tmp_path, {"mine": fields}, META_ARCHITECTURE="RetinaNet"))
    assert cfg.MODEL.RETINANET.NUM_CLASSES == 6 and cfg.DATASETS.CUSTOM.mine.CLASSES[:2] == ["disc", "square"]
    (tmp_path / "saved.yaml").write_text(cfg.dump())
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "elsewhere"))
    again = load_config(str(tmp_path / "saved.yaml"))
    assert json.dumps(again, sort_keys=True) == json.dumps(cfg, sort_keys=True)
    with pytest.raises(FileNotFoundError, match=r"elsewhere/shapes/annotations/instances_val.json are absent"):
        check_datasets(again)


def test_a_changed_description_replaces_and_the_same_one_does_nothing(camvid, tmp_path):
    cfg = load_config(semantic(tmp_path, {"mine": REGIONS | {"CLASSES": ELEVEN}}))
    before = DatasetCatalog["mine"]
    register_custom(cfg.clone())
    assert DatasetCatalog["mine"] is before
    load_config(semantic(tmp_path, {"mine": REGIONS | {"CLASSES": ELEVEN[:3]}}))
    assert DatasetCatalog["mine"] is not before and MetadataCatalog.get("mine").stuff_classes == ELEVEN[:3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"KIND": "region"}, r"mine.KIND is 'region'; allowed are objects, .*; nearest: regions"),
        ({"KIND": None}, r"mine needs a KIND: objects, regions"),
        ({"LABEL": "x"}, r"mine has no field LABEL; KIND regions has IMAGES, .*; nearest: LABELS"),
        ({"LABELS": ""}, r"mine of KIND regions lacks LABELS"),
        ({"IMAGES": ["a"]}, r"mine.IMAGES must be a path, got \['a'\]"),
        ({"CLASSES": ["a", "b", "a"]}, r"mine.CLASSES holds a twice"),
        ({"CLASSES": [True, "b"]}, r"mine.CLASSES must be a list of class names"),
        (
            {"IGNORE_VALUE": 1},
            r"IGNORE_VALUE 1 is the number of the class 'class 1'; the 11 CLASSES are the",
        ),
        ({"IGNORE_VALUE": "void"}, r"mine.IGNORE_VALUE must be a whole number, got 'void'"),
        ({"COLORS": [[1, 2, 3]]}, r"mine has 1 COLORS for 11 CLASSES"),
        ({"CLASSES": "none.txt"}, r"the list .*none.txt is absent. DATASETS.CUSTOM.mine.CLASSES names it"),
    ],
)
def test_wrong_descriptions(camvid, tmp_path, change, message):
    fields = REGIONS | {"CLASSES": ELEVEN} | change
    fields = {key: value for key, value in fields.items() if value is not None}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_config(semantic(tmp_path, {"mine": fields}))


def test_names_that_do_not_work(camvid, tmp_path):
    fields = REGIONS | {"CLASSES": ELEVEN}
    with pytest.raises(ValueError, match=r"coco_2017_train: a data set of this name exists already"):
        load_config(semantic(tmp_path, {"coco_2017_train": fields}))
    with pytest.raises(ValueError, match=r"DATASETS.CUSTOM.a.b.\w+ in .* is not DATASETS.CUSTOM.<data set>.<field>"):
        load_config(semantic(tmp_path, {"a.b": fields}))
    other = semantic(tmp_path, {"mine": fields, "val": fields | {"CLASSES": ["x", *ELEVEN[1:]]}})
    with pytest.raises(ValueError, match=r"class 0 of regions is 'class 0' in mine and 'x' in val"):
        load_config(other, ["DATASETS.TEST", "('val',)"])


def test_classes_that_the_annotations_do_not_have(shapes):
    cfg = load_config(str(EXAMPLE), ["DATASETS.CUSTOM.own_train.CLASSES", "['disc']", "DATASETS.TEST", "()"])
    with pytest.raises(ValueError, match=r"CUSTOM.own_train.CLASSES has 1 classes \(disc\), the annotations have 6"):
        check_dataset(cfg, "own_train")


def test_categories_of_broken_files(tmp_path):
    path = tmp_path / "a.json"
    for text, message in (
        ("", "not a JSON object with a list of classes"),
        ('{"images": []}', "not a JSON object with a list of classes"),
        ('{"categories": [{"id": 1}]}', 'each with "id" and "name"'),
        ('{"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}', "holds the id 1 twice"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            categories(path)
    path.write_text('{"info": {"categories": []}, "categories" : [{"name": "b", "id": 7}, {"name": "a", "id": 3}]}')
    assert [c["name"] for c in categories(path)] == ["a", "b"]


def test_an_unknown_category_names_file_and_category(shapes, tmp_path):
    content = json.loads((shapes / "annotations/instances_val.json").read_text())
    content["annotations"][0]["category_id"] = 77
    (tmp_path / "wrong.json").write_text(json.dumps(content))
    load_config(str(EXAMPLE), ["DATASETS.CUSTOM.own_val.ANNOTATIONS", str(tmp_path / "wrong.json")])
    with pytest.raises(ValueError, match=r"wrong.json is not in COCO's format: .*category_id=77"):
        DatasetCatalog.get("own_val")


def test_unregistered_names_lead_to_own_data(shapes):
    with pytest.raises(ValueError, match=r"own data: describe it under DATASETS.CUSTOM, .*; nearest: shapes_"):
        check_dataset(load_config(), "shapes_trian")
