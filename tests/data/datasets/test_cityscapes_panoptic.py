"""Cityscapes' objects, classes and panoptic ground truth in one record, from the files to the scores."""

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from PIL import Image
from pycocotools import mask as run_lengths

from fapn_d2.config.loading import CONFIGS, load_config
from fapn_d2.data import PyramidDatasetMapper, check_datasets
from fapn_d2.data.datasets.cityscapes_panoptic import load_panoptic_records
from fapn_d2.evaluation.build import build_evaluator
from fapn_d2.meta_arch.panoptic_fpn import PanopticMerge, merged
from tests.datasets.programs import run
from tests.toys.cityscapes import make_tree

pytest.importorskip("cityscapesscripts")
THINGS = ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
NAME = "cityscapes_fine_panoptic_separated_"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "val"):
        make_tree(folder / "cityscapes", split=split, images=3, seed=len(split))
    run("prepare_cityscapes", folder / "cityscapes", "--splits", "train", "val")
    return folder


@pytest.fixture
def cfg(root, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    fragments = [CONFIGS / "_base_" / kind for kind in ("task/panoptic_fpn.yaml", "data/cityscapes_panoptic.yaml")]
    opts = ["INPUT.CROP.SIZE", [48, 64], "INPUT.MIN_SIZE_TRAIN", [64, 128], "INPUT.MIN_SIZE_TEST", 96]
    opts += ["INPUT.MASK_FORMAT", "bitmask"]
    path = root / "config.yaml"
    path.write_text(f"_BASE_: {[str(fragment) for fragment in fragments]}\n")
    return load_config(str(path), opts)


def test_records_hold_all_labels(root):
    records = load_panoptic_records(str(root), "val")
    assert [r["image_id"] for r in records] == ["here_000000_000019", "here_000002_000019", "there_000001_000019"]
    objects = 0
    for record in records:
        base = record["file_name"].replace("leftImg8bit", "gtFine").removesuffix("_gtFine.png")
        truth = np.array(Image.open(f"{base}_gtFine_instanceIds.png"))
        assert (record["height"], record["width"]) == truth.shape
        assert record["sem_seg_file_name"] == f"{base}_gtFine_labelTrainIds.png"
        found = {}
        for thing in record["annotations"]:
            mask = run_lengths.decode(thing["segmentation"]).astype(bool)
            (number,) = np.unique(truth[mask])
            assert (mask == (truth == number)).all()
            found[int(number)] = thing
            x, y, w, h = thing["bbox"]
            rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
            assert (x, y, x + w - 1, y + h - 1) == (columns[0], rows[0], columns[-1], rows[-1])
            label = number if number < 1000 else number // 1000
            assert thing["category_id"] == {24: 0, 25: 1, 26: 2, 27: 3, 33: 7}[label]
            assert thing["iscrowd"] == int(number < 1000)
        numbers = np.unique(truth)
        evaluated = {int(n) for n in numbers if (n if n < 1000 else n // 1000) in (24, 25, 26, 27, 28, 31, 32, 33)}
        assert set(found) == evaluated
        objects += len(found)
    assert objects > 10
    metadata = MetadataCatalog.get(f"{NAME}val")
    assert metadata.thing_classes == THINGS and metadata.stuff_classes[11:] == THINGS
    assert metadata.stuff_classes[0] == "road" and len(metadata.stuff_classes) == 19
    assert metadata.thing_dataset_id_to_contiguous_id == dict(zip((24, 25, 26, 27, 28, 31, 32, 33), range(8)))
    assert metadata.stuff_dataset_id_to_contiguous_id == dict(
        zip((7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23), range(11))
    )


def test_samples_are_crops_with_masks_also_without_objects(root, cfg):
    check_datasets(cfg)
    mapper = PyramidDatasetMapper(cfg, True)
    counts = set()
    for record in 4 * load_panoptic_records(str(root), "train"):
        sample = mapper(record)
        assert sample["image"].shape[1:] == sample["sem_seg"].shape == (48, 64)
        things, labels = sample["instances"], sample["sem_seg"]
        counts.add(len(things))
        if len(things):
            inside = labels[None].expand(len(things), -1, -1)[things.gt_masks.tensor]
            expected = (things.gt_classes + 11)[:, None, None].expand(-1, 48, 64)[things.gt_masks.tensor]
            assert (inside == expected).float().mean() > 0.9  # masks and labels are resized by different rules
    assert len(counts) > 2
    alone = mapper({**record, "annotations": []})
    assert len(alone["instances"]) == 0 and alone["sem_seg"].shape == (48, 64)


def test_a_perfect_prediction_scores_100(root, cfg, tmp_path):
    merge = PanopticMerge(stuff_area=0, dropped=cfg.MODEL.PANOPTIC_FPN.COMBINE.DROPPED_CLASSES)
    check_datasets(cfg)
    evaluator = build_evaluator(cfg, f"{NAME}val", str(tmp_path))
    evaluator.reset()
    for record in load_panoptic_records(str(root), "val"):
        things = [thing for thing in record["annotations"] if not thing["iscrowd"]]
        size = (record["height"], record["width"])
        masks = np.array([run_lengths.decode(thing["segmentation"]) for thing in things])
        classes = torch.tensor([thing["category_id"] for thing in things])
        instances = Instances(
            size, pred_masks=torch.from_numpy(masks).bool(), pred_classes=classes, scores=torch.ones(len(things))
        )
        labels = torch.from_numpy(np.array(Image.open(record["sem_seg_file_name"])))
        scores = torch.stack([labels == number for number in range(19)]).float()
        result = {"instances": instances, "sem_seg": scores}
        evaluator.process([record], [result | {"panoptic_seg": merged(merge, result)}])
    results = evaluator.evaluate()
    assert [results["panoptic_seg"][key] for key in ("PQ", "PQ_th", "PQ_st")] == pytest.approx([100] * 3)
    assert results["sem_seg"]["IoU"] == pytest.approx(100) and results["sem_seg"]["iIoU"] == pytest.approx(100)
    assert results["segm"]["AP"] == results["segm"]["AP50"] == pytest.approx(100)


def test_missing_files_are_named(root, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"cityscapes_panoptic_val.json are absent. .*prepare_cityscapes.py"):
        load_panoptic_records(str(tmp_path), "val")
    monkeypatch.setattr("os.path.isfile", lambda path: not str(path).endswith("_instanceIds.png"))
    with pytest.raises(FileNotFoundError, match=r"3 of 3 files are absent .*instanceIds\.png"):
        load_panoptic_records(str(root), "val")
