"""Predictions that an evaluation kept become the same parts as those of the network."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

from fapn_d2.config.loading import load_config
from fapn_d2.data.datasets.unlabelled import image_list
from fapn_d2.evaluation import build_evaluator
from fapn_d2.evaluation.submission import kept
from fapn_d2.evaluation.submission.parts import PartsFolder
from fapn_d2.evaluation.submission.tasks import task_named
from fapn_d2.evaluation.submission.writer import Limits, Part
from tests.toys.cityscapes import make_tree

from . import toys


def keeping(name: str, folder, outputs) -> None:
    """Evaluate with TEST.KEEP_PREDICTIONS."""
    cfg = load_config("", ["TEST.KEEP_PREDICTIONS", "True", "MODEL.WEIGHTS", "w.pth"])
    toys.evaluate(build_evaluator(cfg, name, str(folder)), image_list(name), outputs)


def same(task: str, name: str, outputs, folder, limits: Limits) -> None:
    writer, records = task_named(task).writer(name, limits), image_list(name)
    expected = [writer.part(record, output) for record, output in zip(records, outputs)]
    found = sorted(writer.kept_parts(folder, records), key=lambda part: [p.image for p in expected].index(part.image))
    assert [part.image for part in found] == [part.image for part in expected]
    assert [part.entries for part in found] == [part.entries for part in expected]
    assert [part.files for part in found] == [part.files for part in expected]


@pytest.mark.parametrize("task", ["coco-boxes", "coco-masks"])
@pytest.mark.parametrize("limits", [Limits(), Limits(max_per_image=2), Limits(score_threshold=0.5)])
def test_coco_objects(task, limits, coco, tmp_path):
    outputs = toys.coco_instances(coco)
    keeping(coco, tmp_path / "kept", outputs)
    same(task, coco, outputs, tmp_path / "kept", limits)
    writer = task_named(task).writer(coco, limits)
    entries = [e for r, o in zip(image_list(coco), outputs) for e in writer.part(r, o).entries]
    if limits.max_per_image == 2:
        assert len(entries) <= 6
    assert all(entry["score"] >= limits.score_threshold for entry in entries) and entries


def test_coco_panoptic(coco, tmp_path):
    outputs = toys.coco_panoptic(coco)
    keeping(coco, tmp_path / "kept", outputs)
    same("coco-panoptic", coco, outputs, tmp_path / "kept", Limits())
    with pytest.raises(FileNotFoundError, match=r"predictions\.json lacks 1 of 4 images \(7\)"):
        records = [*image_list(coco), {"image_id": 7, "file_name": "7.jpg"}]
        list(task_named("coco-panoptic").writer(coco).kept_parts(tmp_path / "kept", records))


def test_cityscapes(cityscapes, tmp_path):
    for task, kind, outputs in (
        ("cityscapes-pixel", "sem_seg", toys.city_scores(cityscapes["sem_seg"])),
        ("cityscapes-instance", "instance_seg", toys.city_instances(cityscapes["instance_seg"])),
        ("cityscapes-panoptic", "panoptic", toys.city_panoptic(cityscapes["panoptic"])),
    ):
        name, folder = cityscapes[kind], tmp_path / kind
        keeping(name, folder, outputs)
        same(task, name, outputs, folder, Limits())
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(FileNotFoundError, match=r"TEST\.KEEP_PREDICTIONS True"):
            list(task_named(task).writer(name).kept_parts(tmp_path / "empty", image_list(name)))


@pytest.mark.parametrize(("task", "classes", "ignore"), [("ade20k", 150, 255), ("vistas", 65, 65)])
def test_label_images(task, classes, ignore, tmp_path):
    name = toys.make_label_images(tmp_path / "data", classes, ignore)
    outputs = toys.region_scores(name, classes)
    keeping(name, tmp_path / "kept", outputs)
    same(task, name, outputs, tmp_path / "kept", Limits())
    toys.remove(name)


def test_an_evaluation_that_did_not_end_is_refused(coco, tmp_path):
    folder, outputs = tmp_path / "kept", toys.coco_panoptic(coco)
    with pytest.raises(FileNotFoundError, match=r"complete\.json is absent: no evaluation has ended there"):
        kept.origin(folder)
    keeping(coco, folder, outputs)
    assert kept.origin(folder)["weights"] == "w.pth"
    with pytest.raises(ValueError, match="without prediction"):
        keeping_part = build_evaluator(load_config("", ["TEST.KEEP_PREDICTIONS", "True"]), coco, str(folder))
        toys.evaluate(keeping_part, image_list(coco)[:1], outputs[:1])
    with pytest.raises(FileNotFoundError, match=r"complete\.json"):
        kept.origin(folder)


def test_objects_of_one_image_in_two_places(coco, tmp_path):
    entries = [{"image_id": i, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5} for i in (139, 285, 139)]
    (tmp_path / "coco_instances_results.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError, match="the objects of image 139 are in two places; evaluate again"):
        list(task_named("coco-boxes").writer(coco).kept_parts(tmp_path, image_list(coco)))
    with pytest.raises(ValueError, match=r"an object of image 139 has only image_id, .* no segmentation"):
        list(task_named("coco-masks").writer(coco).kept_parts(tmp_path, image_list(coco)))


# ---- what a writer refuses ----


def test_writers_refuse_what_a_server_would(coco, cityscapes, tmp_path):
    record = {"image_id": 1, "file_name": "a_0_0_leftImg8bit.png"}
    for task, name, classes in (
        ("cityscapes-pixel", cityscapes["sem_seg"], 19),
        ("ade20k", coco, 150),
        ("vistas", coco, 65),
    ):
        with pytest.raises(ValueError, match=f"predicts 3 classes, the server knows {classes}: set MODEL.SEM_SEG_HEAD"):
            task_named(task).writer(name).part(record, {"sem_seg": torch.rand(3, 4, 4)})
    with pytest.raises(ValueError, match="predicts 54 classes; stuff is sent from networks with 171 or 182"):
        task_named("coco-stuff").writer(coco).part(record, {"sem_seg": torch.rand(54, 4, 4)})
    panoptic = task_named("coco-panoptic").writer(coco)
    ids, segments = torch.ones(4, 4, dtype=torch.int32), [{"id": 1, "category_id": 0, "isthing": True}]
    for wrong in ([], [*segments, {**segments[0], "id": 2}], segments * 2):
        with pytest.raises(ValueError, match="in the list or in the image only, or listed twice"):
            panoptic.part(record, {"panoptic_seg": (ids, wrong)})
    with pytest.raises(ValueError, match=r"segment ids must be 1\.\.16777215, found 16777216"):
        panoptic.part(record, {"panoptic_seg": (ids * 256**3, [{**segments[0], "id": 256**3}])})
    outputs = toys.coco_instances(coco)[0]
    outputs["instances"].pred_classes[:] = 80
    with pytest.raises(ValueError, match=r"the network predicts class 80; toy_coco.* has the classes 0\.\.79"):
        task_named("coco-boxes").writer(coco).part(record, outputs)


# ---- splits without public labels ----


@pytest.fixture
def city_test(tmp_path, monkeypatch):
    """Cityscapes' test images alone."""
    pytest.importorskip("cityscapesscripts")
    make_tree(tmp_path / "data" / "cityscapes", split="test", images=3)
    import shutil

    shutil.rmtree(tmp_path / "data" / "cityscapes" / "gtFine")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    return "cityscapes_fine_panoptic_test"


def test_evaluation_without_labels(city_test, tmp_path, caplog):
    """Says once that there is nothing to score, and keeps what the servers take."""
    records = DatasetCatalog.get(city_test)
    assert [r["image_id"] for r in records] == ["here_000000_000019", "here_000002_000019", "there_000001_000019"]
    evaluator = build_evaluator(load_config(), city_test, str(tmp_path / "out"))
    ids = torch.ones(96, 160, dtype=torch.int32)
    outputs = [
        {"sem_seg": torch.rand(19, 96, 160), "panoptic_seg": (ids, [{"id": 1, "category_id": 11, "isthing": True}])}
        for _ in records
    ]
    with caplog.at_level(logging.INFO, logger="fapn_d2"):
        for _ in range(2):  # an evaluation begins anew
            assert toys.evaluate(evaluator, records, outputs) == {}
    said = [r.getMessage() for r in caplog.records if "nothing to score" in r.getMessage()]
    assert len(said) == 2 and str(tmp_path / "out") in said[0] and "tools/submission.py write --predictions" in said[0]
    for task in ("cityscapes-pixel", "cityscapes-panoptic"):
        assert len(PartsFolder(tmp_path / "out" / task).index()) == 3
    assert kept.origin(tmp_path / "out")
    evaluator.reset()
    evaluator.process(records[:1], outputs[:1])
    with pytest.raises(ValueError, match="2 of 3 images have no prediction"):
        evaluator.evaluate()


def test_coco_test_images(coco, tmp_path, caplog):
    """Detectron2's own registration of COCO's test images: no annotations, so nothing to score."""
    outputs, limits = toys.coco_instances(coco), Limits(score_threshold=0.3)
    truth = json.loads(Path(MetadataCatalog.get(coco).json_file).read_text())
    del truth["annotations"]
    Path(MetadataCatalog.get(coco).json_file).write_text(json.dumps(truth))
    metadata = {k: v for k, v in MetadataCatalog.get(coco).as_dict().items() if k not in ("name", "evaluator_type")}
    MetadataCatalog.get("toy_coco_test_dev").set(**metadata, evaluator_type="coco")
    DatasetCatalog.register("toy_coco_test_dev", lambda: image_list("toy_coco_test_dev"))
    with caplog.at_level(logging.INFO, logger="fapn_d2"):
        keeping("toy_coco_test_dev", tmp_path / "kept", outputs)
    assert sum("toy_coco_test_dev has no labels here: there is nothing to score" in m for m in caplog.messages) == 1
    same("coco-masks", "toy_coco_test_dev", outputs, tmp_path / "kept", limits)
    toys.remove("toy_coco_test_dev")


def test_nothing_found(coco, cityscapes):
    """An image without objects has an empty part."""
    empty = Instances((96, 160), pred_boxes=Boxes(torch.zeros(0, 4)), pred_masks=torch.zeros(0, 96, 160).bool())
    empty.scores, empty.pred_classes = torch.zeros(0), torch.zeros(0, dtype=torch.long)
    record = {"image_id": 1, "file_name": "here_000000_000019_leftImg8bit.png"}
    for task in ("coco-boxes", "coco-masks"):
        assert task_named(task).writer(coco).part(record, {"instances": empty}) == Part("1")
    part = task_named("cityscapes-instance").writer(cityscapes["instance_seg"]).part(record, {"instances": empty})
    assert part == Part("1", files=(("here_000000_000019_pred.txt", b""),))


def test_lists_without_labels(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    (tmp_path / "coco/annotations").mkdir(parents=True)
    content = {"images": [{"id": 7, "file_name": "7.jpg", "height": 4, "width": 5}], "categories": []}
    (tmp_path / "coco/annotations/image_info_test-dev2017.json").write_text(json.dumps(content))
    path = str(tmp_path / "coco/test2017/7.jpg")
    listed = image_list("coco_2017_test-dev_panoptic_separated")
    assert listed == [{"file_name": path, "image_id": 7, "height": 4, "width": 5}]
    (tmp_path / "ADEChallengeData2016/images/testing").mkdir(parents=True)
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "ADEChallengeData2016/images/testing/b.jpg")
    assert [r["image_id"] for r in image_list("ade20k_sem_seg_test")] == ["b"]
    for name, message in (
        ("mapillary_vistas_sem_seg_test", r"testing/images is absent.*Its images are in testing/images"),
        ("cityscapes_fine_sem_seg_test", r"no images .*leftImg8bit/test/<city>.*leftImg8bit_trainvaltest\.zip"),
        ("coco_2017_test_panoptic_separated", r"image_info_test2017\.json is absent"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            image_list(name)
    with pytest.raises(ValueError, match="'nowhere' is not registered"):
        image_list("nowhere")


def test_checks_before_a_run(city_test):
    """Images are enough to predict, and not enough to train."""
    from fapn_d2.data import check_datasets

    cfg = load_config("", ["MODEL.META_ARCHITECTURE", "SemanticSegmentor", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "19"])
    check_datasets(cfg, ["cityscapes_fine_sem_seg_test"])
    cfg.DATASETS.TRAIN = ("cityscapes_fine_sem_seg_test",)
    with pytest.raises(ValueError, match="has no public labels, so that nothing can be trained on it"):
        check_datasets(cfg)
