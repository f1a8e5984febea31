"""Cityscapes' instance scores equal those of Detectron2's evaluator, and the files are as the server takes them."""

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import CityscapesInstanceEvaluator as DetectronEvaluator
from detectron2.structures import Instances
from PIL import Image

from fapn_d2.evaluation.cityscapes.instance import CityscapesInstanceEvaluator
from fapn_d2.evaluation.cityscapes.official import load, todays_numpy
from tests.toys.cityscapes import make_tree

pytest.importorskip("cityscapesscripts")
CLASSES = ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]


@pytest.fixture
def dataset(tmp_path):
    files = make_tree(tmp_path, images=6, seed=3)
    name = f"toy_cityscapes_{tmp_path.name}"
    MetadataCatalog.get(name).set(gt_dir=str(tmp_path / "gtFine" / "val"), thing_classes=CLASSES)
    yield name, files
    MetadataCatalog.remove(name)


def predictions(files, seed=0) -> list[Instances]:
    """The true objects, shifted a little, some lost, some named wrongly, some found twice, and some invented."""
    from cityscapesscripts.helpers.labels import id2label

    rng = np.random.default_rng(seed)
    outputs = []
    for file in files:
        truth = np.array(Image.open(str(file).replace("leftImg8bit", "gtFine").replace(".png", "_instanceIds.png")))
        masks, classes = [np.zeros(truth.shape, bool)], [0]  # an empty mask is nothing special
        for number in np.unique(truth[truth >= 24]):
            name = id2label[number // 1000 if number >= 1000 else number].name
            for _ in range(rng.integers(0, 3)):
                masks.append(np.roll(truth == number, rng.integers(-3, 4, 2), (0, 1)))
                right = name in CLASSES and rng.random() < 0.8
                classes.append(CLASSES.index(name) if right else int(rng.integers(len(CLASSES))))
        masks.append(rng.random(truth.shape) < 0.5)
        classes.append(int(rng.integers(len(CLASSES))))
        outputs.append(
            Instances(
                truth.shape,
                pred_masks=torch.from_numpy(np.stack(masks)),
                pred_classes=torch.tensor(classes),
                scores=torch.from_numpy(rng.random(len(masks)).astype(np.float32)),
            )
        )
    return outputs


def run(evaluator, files, outputs) -> dict:
    evaluator.reset()
    for file, output in zip(files, outputs):
        evaluator.process([{"file_name": str(file)}], [{"instances": output}])
    return evaluator.evaluate()["segm"]


def test_equal_to_detectron2(dataset, monkeypatch):
    name, files = dataset
    outputs = predictions(files)
    ours = run(CityscapesInstanceEvaluator(name), files, outputs)
    # Detectron2 calls the whole script, which dumps its matches; its dump chokes on the integers of today's numpy
    monkeypatch.setattr(load("evaluation.evalInstanceLevelSemanticLabeling"), "writeDict2JSON", lambda *_: None)
    with todays_numpy(), np.errstate(invalid="ignore"):
        theirs = run(DetectronEvaluator(name), files, outputs)
    assert 5 < theirs["AP"] < 95
    assert {key: ours[key] for key in theirs} == pytest.approx(theirs, abs=1e-11)
    assert list(ours) == ["AP", "AP50", *(f"AP-{c}" for c in CLASSES)]
    assert ours["AP"] == pytest.approx(np.nanmean([ours[f"AP-{c}"] for c in CLASSES]))


def test_stuff_among_the_classes(dataset):
    """As in the panoptic data sets, whose classes are all 19."""
    name, files = dataset
    outputs = predictions(files)
    plain = run(CityscapesInstanceEvaluator(name), files, outputs)
    MetadataCatalog.get("toy_all_classes").set(
        gt_dir=MetadataCatalog.get(name).gt_dir, thing_classes=["road", "sky", *CLASSES]
    )
    for instances in outputs:
        instances.pred_classes += 2
    ours = run(CityscapesInstanceEvaluator("toy_all_classes"), files, outputs)
    assert list(ours) == list(plain) and ours == pytest.approx(plain, nan_ok=True)
    MetadataCatalog.remove("toy_all_classes")


def test_files_for_the_server(dataset, tmp_path, monkeypatch):
    name, files = dataset
    monkeypatch.chdir(tmp_path)
    outputs = predictions(files)
    evaluator = CityscapesInstanceEvaluator(name, prediction_dir=str(tmp_path / "out"))
    kept = run(evaluator, files, outputs)
    assert kept == pytest.approx(run(CityscapesInstanceEvaluator(name), files, outputs), nan_ok=True)
    assert not (tmp_path / "matches.json").exists()
    lines = (tmp_path / "out" / "here_000000_000019_pred.txt").read_text().splitlines()
    assert len(lines) == len(outputs[0])
    mask_file, label_id, score = lines[1].split(" ")
    from cityscapesscripts.helpers.labels import name2label

    assert int(label_id) == name2label[CLASSES[int(outputs[0].pred_classes[1])]].id
    assert float(score) == pytest.approx(float(outputs[0].scores[1]))
    mask = np.array(Image.open(tmp_path / "out" / mask_file))
    assert (mask == 255 * outputs[0].pred_masks[1].numpy()).all()


def test_nothing_found(dataset):
    name, files = dataset
    empty = Instances((96, 160), pred_masks=torch.zeros(0, 96, 160), pred_classes=torch.zeros(0), scores=torch.zeros(0))
    assert run(CityscapesInstanceEvaluator(name), files, [empty] * len(files))["AP"] == 0


def test_errors_name_what_is_wrong(dataset):
    name, files = dataset
    with pytest.raises(ValueError, match=r"of 6 images there are 5 without prediction \(here_000002_000019, "):
        run(CityscapesInstanceEvaluator(name), files[:1], predictions(files[:1]))
    with pytest.raises(ValueError, match=r"mars_0_1_x.png has no ground truth in toy_cityscapes"):
        CityscapesInstanceEvaluator(name).process([{"file_name": "mars_0_1_x.png"}], [{}])
    MetadataCatalog.get("toy_wrong_class").set(gt_dir=MetadataCatalog.get(name).gt_dir, thing_classes=["cat"])
    with pytest.raises(ValueError, match=r"toy_wrong_class: 'cat' is not a class of Cityscapes \(unlabeled, "):
        CityscapesInstanceEvaluator("toy_wrong_class")
    MetadataCatalog.remove("toy_wrong_class")
