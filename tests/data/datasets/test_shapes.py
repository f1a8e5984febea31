import json
import multiprocessing
import os
import time

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_panoptic_separated
from PIL import Image
from pycocotools.coco import COCO

from fapn_d2.data import generate_shapes
from fapn_d2.data.datasets.shapes import generate
from fapn_d2.data.datasets.shapes.scene import compose
from fapn_d2.data.datasets.shapes.spec import STUFF, THINGS
from fapn_d2.data.datasets.shapes.write import verify_split
from fapn_d2.data.panoptic_png import rgb2id

from ..conftest import SHAPES_SIZE, SHAPES_SPLITS

TINY = {"splits": {"train": 2}, "size": (48, 64)}


def _files(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def _png(path):
    return np.asarray(Image.open(path))


def test_same_seed_same_bytes_and_a_longer_split_begins_alike(tmp_path):
    a = _files(generate_shapes(tmp_path / "a", **TINY))
    b = _files(generate_shapes(tmp_path / "b", **TINY))
    longer = _files(generate_shapes(tmp_path / "c", **TINY | {"splits": {"train": 3}}))
    other = _files(generate_shapes(tmp_path / "d", **TINY, seed=1))
    assert a == b
    pictures = [p for p in a if p.suffix != ".json"]
    assert all(longer[p] == a[p] for p in pictures)
    assert all(other[p] != a[p] for p in pictures if p.suffix == ".jpg")


def test_every_instance_mask_box_and_area_is_that_of_the_panoptic_png(shapes):
    for split, number in SHAPES_SPLITS.items():
        coco = COCO(str(shapes / f"annotations/instances_{split}.json"))
        panoptic = json.loads((shapes / f"annotations/panoptic_{split}.json").read_text())
        assert len(coco.imgs) == len(panoptic["annotations"]) == number
        for record in panoptic["annotations"]:
            ids = rgb2id(_png(shapes / f"panoptic_{split}" / record["file_name"]))
            assert ids.shape == SHAPES_SIZE
            assert set(np.unique(ids)) == {s["id"] for s in record["segments_info"]}
            things = [s for s in record["segments_info"] if s["category_id"] <= len(THINGS)]
            annotations = coco.imgToAnns[record["image_id"]]
            assert len(things) == len(annotations) >= 1
            for segment, annotation in zip(things, annotations):
                mask = coco.annToMask(annotation).astype(bool)
                assert (mask == (ids == segment["id"])).all()
                y, x = np.nonzero(mask)
                assert annotation["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1] == segment["bbox"]
                assert annotation["area"] == mask.sum() == segment["area"]
                assert annotation["category_id"] == segment["category_id"]


def test_semantic_labels_follow_from_the_panoptic_ones(shapes):
    panoptic = json.loads((shapes / "annotations/panoptic_val.json").read_text())
    for record in panoptic["annotations"]:
        ids = rgb2id(_png(shapes / "panoptic_val" / record["file_name"]))
        semantic = _png(shapes / "sem_seg_val" / record["file_name"])
        stuff_only = _png(shapes / "panoptic_stuff_val" / record["file_name"])
        for segment in record["segments_info"]:
            mask, category = ids == segment["id"], segment["category_id"]
            assert (semantic[mask] == category - 1).all()
            assert (stuff_only[mask] == max(category - len(THINGS), 0)).all()


def test_images_show_what_labels_say(shapes):
    """The mean colours of the stuff classes are told apart, so image and label belong together."""
    sums, counts = np.zeros((len(STUFF), 3)), np.zeros(len(STUFF))
    for split in SHAPES_SPLITS:
        for label in (shapes / f"panoptic_stuff_{split}").iterdir():
            image = np.asarray(Image.open(shapes / split / f"{label.stem}.jpg"), float)
            for i in range(len(STUFF)):
                mask = _png(label) == i + 1
                sums[i] += image[mask].sum(0)
                counts[i] += mask.sum()
    sky, grass, sand = sums / counts[:, None]
    assert sky.argmax() == 2 and grass.argmax() == 1 and sand.argmax() == 0


def test_objects_hide_each_other_but_none_vanishes():
    hidden = 0
    for seed in range(10):
        scene = compose(np.random.RandomState(seed), (160, 192))
        for i, thing in enumerate(scene.things):
            visible = (scene.owner == i).sum()
            assert visible >= max(14, 0.3 * thing.mask.sum())
            assert not ((scene.owner == i) & ~thing.mask).any()
            hidden += visible < thing.mask.sum()
    assert hidden > 10


def test_all_classes_occur_and_sizes_span_two_decades():
    kinds, areas = set(), []
    for seed in range(20):
        scene = compose(np.random.RandomState(seed), (160, 192))
        kinds |= {t.kind for t in scene.things}
        areas += [(scene.owner == i).sum() for i in range(len(scene.things))]
    assert kinds == set(range(len(THINGS)))
    assert min(areas) < 40 and max(areas) > 3000


@pytest.mark.parametrize("damage", ["semantic", "stuff", "polygon", "area", "size"])
def test_verification_finds_damage(tmp_path, damage):
    root = generate_shapes(tmp_path / "shapes", **TINY)
    verify_split(root, "train")
    folders = {"semantic": "sem_seg_train", "stuff": "panoptic_stuff_train", "size": "train"}
    if damage in ("semantic", "stuff"):
        path = root / folders[damage] / "000001.png"
        label = _png(path).copy()
        label[0, 0] = 5
        Image.fromarray(label).save(path)
    elif damage == "size":
        Image.new("RGB", (64, 47)).save(root / "train/000001.jpg")
    else:
        name = "instances" if damage == "polygon" else "panoptic"
        path = root / f"annotations/{name}_train.json"
        content = json.loads(path.read_text())
        if damage == "polygon":
            content["annotations"][0]["segmentation"][0][0] += 2
        else:
            content["annotations"][0]["segments_info"][0]["area"] += 1
        path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="000001"):
        verify_split(root, "train")


def test_a_killed_run_leaves_nothing_and_its_rest_is_cleared(tmp_path, monkeypatch):
    leftover = tmp_path / ".shapes-unfinished-killed"
    leftover.mkdir()

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(generate, "verify_split", interrupt)
        generate_shapes(tmp_path / "shapes", **TINY)
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == []
    generate_shapes(tmp_path / "shapes", **TINY)
    assert (tmp_path / "shapes/annotations/panoptic_train.json").is_file()


def test_processes_that_ask_at_once_generate_once(tmp_path, monkeypatch):
    def slow_generate(root, *args, **kwargs):
        (tmp_path / f"call{os.getpid()}").touch()
        time.sleep(0.2)
        original(root, splits={"train": 2}, size=(48, 64), seed=0)

    original = generate._generate
    monkeypatch.setattr(generate, "_generate", slow_generate)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=generate.ensure_shapes, args=(tmp_path / "shapes",)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(list(tmp_path.glob("call*"))) == 1
    assert len(list((tmp_path / "shapes/train").iterdir())) == 2


def test_refusals_name_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match=r"at least one image, got splits=\{'train': 0\}"):
        generate_shapes(tmp_path / "x", splits={"train": 0})
    with pytest.raises(ValueError, match=r"at least 48 pixels both ways, got \(40, 64\)"):
        generate_shapes(tmp_path / "x", size=(40, 64))
    with pytest.raises(ValueError, match="not be negative, got -1"):
        generate_shapes(tmp_path / "x", seed=-1)
    (tmp_path / "x").mkdir()
    with pytest.raises(FileExistsError, match="remove it"):
        generate_shapes(tmp_path / "x", **TINY)
    (tmp_path / "file").touch()
    with pytest.raises(PermissionError, match=r"file is not a folder.*DETECTRON2_DATASETS"):
        generate_shapes(tmp_path / "file/shapes", **TINY)


def test_it_is_generated_on_first_use(tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "DEFAULT_SPLITS", {"train": 2, "val": 1})
    monkeypatch.setattr(generate, "DEFAULT_SIZE", (48, 64))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "new"))
    assert len(DatasetCatalog.get("shapes_val")) == 1
    assert len(DatasetCatalog.get("shapes_train_panoptic_separated")) == 2


def test_records_and_metadata_are_those_of_detectron2s_own_registration(shapes):
    """Against ``register_coco_panoptic_separated``, which cannot follow a data root that moves."""
    ours = "shapes_val_panoptic_separated"
    records, metadata = DatasetCatalog.get(ours), MetadataCatalog.get(ours).as_dict()
    keys = ("thing_classes", "thing_colors", "thing_dataset_id_to_contiguous_id")
    keys += tuple(k.replace("thing", "stuff") for k in keys)
    register_coco_panoptic_separated(
        "reference",
        {k: metadata[k] for k in keys},
        str(shapes / "val"),
        str(shapes / "panoptic_val"),
        str(shapes / "annotations/panoptic_val.json"),
        str(shapes / "panoptic_stuff_val"),
        str(shapes / "annotations/instances_val.json"),
    )
    try:
        assert DatasetCatalog.get("reference_separated") == records
        assert MetadataCatalog.get("reference_separated").as_dict() | {"name": ours} == metadata
        stuff_only = "shapes_val_panoptic_stuffonly"
        assert DatasetCatalog.get("reference_stuffonly") == DatasetCatalog.get(stuff_only)
        reference = MetadataCatalog.get("reference_stuffonly").as_dict()
        assert reference | {"name": stuff_only} == MetadataCatalog.get(stuff_only).as_dict()
    finally:
        for suffix in ("separated", "stuffonly"):
            DatasetCatalog.remove(f"reference_{suffix}")
            MetadataCatalog.remove(f"reference_{suffix}")
    assert metadata["stuff_classes"] == ["things", *STUFF]
    assert metadata["stuff_dataset_id_to_contiguous_id"] == {0: 0, 7: 1, 8: 2, 9: 3}
    assert MetadataCatalog.get("shapes_val_sem_seg").stuff_classes == [*THINGS, *STUFF]
