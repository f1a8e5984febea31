"""The official scripts score an unzipped archive as this project scores the predictions that it was made from."""

import contextlib
import copy
import io
import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fapn_d2.data.datasets.unlabelled import image_list
from fapn_d2.evaluation.cityscapes import official
from fapn_d2.evaluation.cityscapes.instance import CityscapesInstanceEvaluator
from fapn_d2.evaluation.cityscapes.semantic import OFFICIAL_NAMES, CityscapesSemSegEvaluator
from fapn_d2.evaluation.coco import FastCOCOEvaluator
from fapn_d2.evaluation.panoptic import PanopticEvaluator
from fapn_d2.evaluation.sem_seg import SemSegEvaluator

from . import toys

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
EXACT = {"abs": 1e-9, "rel": 0, "nan_ok": True}


@pytest.fixture
def coco_real(real_images):
    """280 real objects, 6 of them crowds, in 24 images."""
    name, like = "toy_coco_real_submission", MetadataCatalog.get("coco_2017_val")
    DatasetCatalog.register(name, lambda: image_list(name))
    MetadataCatalog.get(name).set(
        json_file=str(real_images / "instances_of_more_images.json"),
        image_root=str(real_images / "photographs"),
        evaluator_type="coco",
        thing_dataset_id_to_contiguous_id=like.thing_dataset_id_to_contiguous_id,
        thing_classes=like.thing_classes,
    )
    yield name
    toys.remove(name)


def pycocotools_scores(truth: str, results: str, kind: str) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):
        annotations = COCO(truth)
        scored = COCOeval(annotations, annotations.loadRes(results), kind)
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    return {name: 100 * value if value >= 0 else np.nan for name, value in zip(NAMES, scored.stats)}


@pytest.mark.parametrize("source", ["coco", "coco_real"])
@pytest.mark.parametrize(
    ("task", "kind", "decimals"), [("coco-boxes", "bbox", 1), ("coco-boxes", "bbox", 6), ("coco-masks", "segm", 1)]
)
def test_coco_objects(task, kind, decimals, source, request, tmp_path):
    """Boxes in tenths of a pixel, as they are sent by default, and any boxes with TEST.SUBMISSION.BOX_DECIMALS 6."""
    name = request.getfixturevalue(source)
    outputs = toys.coco_instances(name, seed=4, decimals=decimals)
    records = image_list(name)
    ours = toys.evaluate(FastCOCOEvaluator(name), records, outputs)[kind]
    archive = toys.write(task, name, outputs, tmp_path, box_decimals=decimals)
    assert archive.name == "detections_val2017_Toy_results.zip"
    report = toys.check(archive, task, name)
    assert report.ready, report.text()
    results = toys.unzip(archive, tmp_path / "unzipped") / "detections_val2017_Toy_results.json"
    theirs = pycocotools_scores(MetadataCatalog.get(name).json_file, str(results), kind)
    assert 5 < theirs["AP"] < 95
    assert {key: ours[key] for key in NAMES} == pytest.approx(theirs, **EXACT)


def panoptic_scores(results: dict) -> dict[str, float]:
    kinds = {"": "All", "_th": "Things", "_st": "Stuff"}
    return {f"{key.upper()}{s}": 100 * results[kind][key] for s, kind in kinds.items() for key in ("pq", "sq", "rq")}


def test_coco_panoptic(coco, tmp_path, monkeypatch):
    api = pytest.importorskip("panopticapi.evaluation")
    monkeypatch.setattr(api, "pq_compute_multi_core", lambda *given: api.pq_compute_single_core(0, *given))
    outputs, metadata = toys.coco_panoptic(coco), MetadataCatalog.get(coco)
    ours = toys.evaluate(PanopticEvaluator(coco), image_list(coco), outputs)["panoptic_seg"]
    archive = toys.write("coco-panoptic", coco, outputs, tmp_path)
    report = toys.check(archive, "coco-panoptic", coco)
    assert report.ready, report.text()
    results = toys.unzip(archive, tmp_path / "unzipped") / "panoptic_val2017_Toy_results.json"
    theirs = panoptic_scores(api.pq_compute(metadata.panoptic_json, str(results), metadata.panoptic_root))
    assert 5 < theirs["PQ"] < 95
    assert ours == pytest.approx(theirs, **EXACT)


def test_coco_panoptic_examples(real_images, tmp_path, monkeypatch):
    """COCO's two published images."""
    api = pytest.importorskip("panopticapi.evaluation")
    monkeypatch.setattr(api, "pq_compute_multi_core", lambda *given: api.pq_compute_single_core(0, *given))
    name = "toy_coco_examples_submission"
    like = MetadataCatalog.get("coco_2017_val_panoptic_separated")
    DatasetCatalog.register(name, lambda: image_list(name))
    MetadataCatalog.get(name).set(
        image_root=str(real_images / "photographs"),
        panoptic_json=str(real_images / "panoptic.json"),
        panoptic_root=str(real_images / "panoptic"),
        thing_dataset_id_to_contiguous_id=like.thing_dataset_id_to_contiguous_id,
        stuff_dataset_id_to_contiguous_id=like.stuff_dataset_id_to_contiguous_id,
    )
    try:
        outputs, metadata = toys.coco_panoptic(name), MetadataCatalog.get(name)
        ours = toys.evaluate(PanopticEvaluator(name), image_list(name), outputs)["panoptic_seg"]
        archive = toys.write("coco-panoptic", name, outputs, tmp_path)
        assert toys.check(archive, "coco-panoptic", name).ready
        results = toys.unzip(archive, tmp_path / "unzipped") / "panoptic_val2017_Toy_results.json"
        theirs = panoptic_scores(api.pq_compute(metadata.panoptic_json, str(results), metadata.panoptic_root))
        assert ours == pytest.approx(theirs, **EXACT)
    finally:
        toys.remove(name)


def found_by_the_script(script, folder, records, kind: str, *, text: bool) -> list[tuple[str, str]]:
    """(prediction, ground truth), predictions as the script finds them by the beginnings of their names."""
    args = copy.copy(script.args)
    args.predictionPath, args.predictionWalk = str(folder), None
    truths = [toys.truth_file(record, kind) for record in records]
    return [(script.getPrediction(*((t, args) if text else (args, t))), t) for t in truths]


def test_cityscapes_pixel(cityscapes, tmp_path):
    name = cityscapes["sem_seg"]
    outputs, records = toys.city_scores(name), image_list(name)
    ours = toys.evaluate(CityscapesSemSegEvaluator(name), records, outputs)["sem_seg"]
    archive = toys.write("cityscapes-pixel", name, outputs, tmp_path)
    report = toys.check(archive, "cityscapes-pixel", name)
    assert report.ready, report.text()
    folder = toys.unzip(archive, tmp_path / "unzipped")
    script = official.load("evaluation.evalPixelLevelSemanticLabeling")
    theirs = official.semantic_scores(found_by_the_script(script, folder, records, "labelIds", text=False))
    assert 0.2 < theirs["averageScoreClasses"] < 0.95
    expected = {name: 100 * theirs[their] for name, their in OFFICIAL_NAMES.items()}
    assert {name: ours[name] for name in expected} == pytest.approx(expected, **EXACT)


def test_cityscapes_instance(cityscapes, tmp_path):
    name = cityscapes["instance_seg"]
    outputs, records = toys.city_instances(name), image_list(name)
    ours = toys.evaluate(CityscapesInstanceEvaluator(name), records, outputs)["segm"]
    archive = toys.write("cityscapes-instance", name, outputs, tmp_path)
    report = toys.check(archive, "cityscapes-instance", name)
    assert report.ready, report.text()
    folder = toys.unzip(archive, tmp_path / "unzipped")
    with Image.open(next(folder.glob("*.png"))) as mask:
        assert mask.mode == "1"
    script = official.load("evaluation.evalInstanceLevelSemanticLabeling")
    pairs = found_by_the_script(script, folder, records, "instanceIds", text=True)
    theirs = official.instance_scores(official.instance_matches(pairs))
    assert 0.05 < theirs["allAp"] < 0.95
    expected = {"AP": 100 * theirs["allAp"], "AP50": 100 * theirs["allAp50%"]}
    expected |= {f"AP-{n}": 100 * s["ap"] for n, s in theirs["classes"].items()}
    assert {key: ours[key] for key in expected} == pytest.approx(expected, **EXACT)


def test_cityscapes_panoptic(cityscapes, tmp_path, monkeypatch):
    name = cityscapes["panoptic"]
    script = official.load("evaluation.evalPanopticSemanticLabeling")
    monkeypatch.setattr(script, "pq_compute_multi_core", lambda *given: script.pq_compute_single_core(0, *given))
    outputs, records, metadata = toys.city_panoptic(name), image_list(name), MetadataCatalog.get(name)
    ours = toys.evaluate(PanopticEvaluator(name), records, outputs)["panoptic_seg"]
    archive = toys.write("cityscapes-panoptic", name, outputs, tmp_path)
    report = toys.check(archive, "cityscapes-panoptic", name)
    assert report.ready, report.text()
    folder = toys.unzip(archive, tmp_path / "unzipped")
    theirs = script.evaluatePanoptic(
        *(metadata.panoptic_json, metadata.panoptic_root),
        *(str(folder / "cityscapes_panoptic_val.json"), str(folder / "cityscapes_panoptic_val")),
        str(tmp_path / "results.json"),
    )
    assert 5 < 100 * theirs["All"]["pq"] < 95
    assert ours == pytest.approx(panoptic_scores(theirs), **EXACT)


def plain_scores(matrix: np.ndarray) -> dict[str, float]:
    """Pixel accuracy and mean IoU as ADE20K's kit defines them, from counts [truth, prediction]."""
    hits, truth, found = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    present = truth > 0
    iou = hits[present] / (truth + found - hits)[present]
    return {"pACC": 100 * hits.sum() / matrix.sum(), "mIoU": 100 * float(iou.mean())}


@pytest.mark.parametrize(("task", "classes", "ignore", "shift"), [("ade20k", 150, 255, 1), ("vistas", 65, 65, 0)])
def test_label_images(task, classes, ignore, shift, tmp_path):
    """No server's script can be installed: its definition, pixel by pixel."""
    name = toys.make_label_images(tmp_path / "data", classes, ignore)
    try:
        outputs, records = toys.region_scores(name, classes), DatasetCatalog.get(name)
        ours = toys.evaluate(SemSegEvaluator(name), records, outputs)["sem_seg"]
        archive = toys.write(task, name, outputs, tmp_path)
        report = toys.check(archive, task, name)
        assert report.ready, report.text()
    finally:
        toys.remove(name)
    folder = toys.unzip(archive, tmp_path / "unzipped")
    matrix = np.zeros((classes, classes))
    for record in records:
        with (
            Image.open(record["sem_seg_file_name"]) as truth,
            Image.open(folder / f"{record['image_id']}.png") as found,
        ):
            assert found.mode == "L"
            truth, found = np.asarray(truth).astype(int), np.asarray(found).astype(int) - shift
        labelled = truth != ignore
        np.add.at(matrix, (truth[labelled], found[labelled]), 1)
    expected = plain_scores(matrix)
    assert 40 < expected["mIoU"] < 95
    assert {key: ours[key] for key in expected} == pytest.approx(expected, **EXACT)


@pytest.mark.parametrize("classes", [171, 182, 92])
def test_coco_stuff(classes, coco, tmp_path):
    """No script of the server can be installed: every pixel has one class, 92..182 as predicted and 183 for things."""
    from fapn_d2.data.datasets.coco_stuff import CLASSES, labelled_ids

    rng, records = np.random.default_rng(0), image_list(coco)
    guesses = [rng.integers(0, classes, (r["height"] // 4, r["width"] // 4)) for r in records]
    guesses = [np.kron(g, np.ones((4, 4), int)) for g in guesses]
    guesses = [
        np.pad(g, ((0, r["height"] - g.shape[0]), (0, r["width"] - g.shape[1])), "edge")
        for g, r in zip(guesses, records)
    ]
    import torch

    outputs = [{"sem_seg": torch.nn.functional.one_hot(torch.from_numpy(g), classes).permute(2, 0, 1)} for g in guesses]
    archive = toys.write("coco-stuff", coco, outputs, tmp_path)
    report = toys.check(archive, "coco-stuff", coco)
    assert report.ready, report.text()
    entries = json.loads((toys.unzip(archive, tmp_path / "u") / "stuff_val2017_Toy_results.json").read_text())
    ids = {171: labelled_ids(), 182: np.arange(1, 183), 92: np.arange(92, 184)}[classes]
    assert CLASSES[182][91] == "banner"  # the first of stuff, 92
    for record, guess in zip(records, guesses):
        found = np.zeros(guess.shape, int)
        for entry in (e for e in entries if e["image_id"] == record["image_id"]):
            found += entry["category_id"] * mask_util.decode(entry["segmentation"])
        assert (found == np.where(ids[guess] < 92, 183, ids[guess])).all()
