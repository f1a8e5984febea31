"""Cityscapes' semantic scores: by hand, and equal to the official script's as Detectron2 calls it."""

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import CityscapesSemSegEvaluator as DetectronEvaluator
from PIL import Image

from fapn_d2.evaluation.cityscapes.counts import CityscapesCounts, label_table
from fapn_d2.evaluation.cityscapes.official import semantic_scores, todays_numpy
from fapn_d2.evaluation.cityscapes.semantic import CityscapesSemSegEvaluator
from tests.toys.cityscapes import make_tree

pytest.importorskip("cityscapesscripts")
ROAD, PARKING, PERSON, CAR, TRUCK, CARAVAN, LABELS = 7, 9, 24, 26, 27, 29, 34


@pytest.fixture
def dataset(tmp_path):
    """(name, image files) of a split of four images."""
    files = make_tree(tmp_path)
    name = f"toy_cityscapes_{tmp_path.name}"
    MetadataCatalog.get(name).set(gt_dir=str(tmp_path / "gtFine" / "val"))
    yield name, files
    MetadataCatalog.remove(name)


def predictions(files, seed=0) -> list[torch.Tensor]:
    """(19, H, W) scores of a network that is right two times in three, in blocks."""
    rng = np.random.default_rng(seed)
    table, outputs = label_table(), []
    for file in files:
        truth = np.array(Image.open(str(file).replace("leftImg8bit", "gtFine").replace(".png", "_labelIds.png")))
        guess = table.train_id[truth]
        blocks = np.kron(rng.integers(0, 19, (12, 20)), np.ones((8, 8), int))
        wrong = np.kron(rng.random((12, 20)) < 1 / 3, np.ones((8, 8), bool)) | (guess == 255)
        guess = np.where(wrong, blocks, guess)
        outputs.append(torch.nn.functional.one_hot(torch.from_numpy(guess).long(), 19).permute(2, 0, 1).float())
    return outputs


def run(evaluator, files, outputs) -> dict:
    evaluator.reset()
    for file, output in zip(files, outputs):
        evaluator.process([{"file_name": str(file)}], [{"sem_seg": output}])
    return evaluator.evaluate()["sem_seg"]


def test_scores_equal_the_official_script(dataset):
    name, files = dataset
    outputs = predictions(files)
    ours = run(CityscapesSemSegEvaluator(name), files, outputs)
    with todays_numpy():
        theirs = run(DetectronEvaluator(name), files, outputs)
    assert 0 < theirs["iIoU"] < 100 and 0 < theirs["iIoU_sup"] < 100
    assert {key: ours[key] for key in theirs} == pytest.approx(theirs, abs=1e-11)


def test_every_class_and_category_equals_the_official_script(dataset, tmp_path):
    name, files = dataset
    evaluator = CityscapesSemSegEvaluator(name, prediction_dir=str(tmp_path / "out"))
    ours = run(evaluator, files, predictions(files, seed=1))
    pairs = [(f"{tmp_path}/out/{key}_pred.png", truth) for key, truth in evaluator._labels.items()]
    official = semantic_scores(pairs)
    expected = {
        f"{kind}-{part}": 100 * score
        for kind, scores in (
            ("IoU", official["classScores"]),
            ("iIoU", official["classInstScores"]),
            ("IoU_sup", official["categoryScores"]),
            ("iIoU_sup", official["categoryInstScores"]),
        )
        for part, score in scores.items()
        if f"{kind}-{part}" in ours or not np.isnan(score)
    }
    assert len(expected) == 19 + 8 + 7 + 2
    assert {key: ours[key] for key in expected} == pytest.approx(expected, abs=1e-11, nan_ok=True)


def test_official_option_scores_the_written_files(dataset, tmp_path):
    name, files = dataset
    outputs = predictions(files)
    fast = run(CityscapesSemSegEvaluator(name), files, outputs)
    official = CityscapesSemSegEvaluator(name, prediction_dir=str(tmp_path / "out"), official=True)
    assert run(official, files, outputs) == pytest.approx(fast, abs=1e-11, nan_ok=True)
    # what was written is what is scored
    for key in official._labels:
        Image.fromarray(np.full((96, 160), ROAD, np.uint8)).save(tmp_path / "out" / f"{key}_pred.png")
    assert official.evaluate()["sem_seg"]["iIoU"] == 0
    with pytest.raises(ValueError, match="official=True needs a prediction_dir"):
        CityscapesSemSegEvaluator(name, official=True)


def test_scores_by_hand():
    counts = CityscapesCounts()
    truth = np.full((20, 20), ROAD, np.uint8)
    truth[0] = PARKING  # not evaluated
    truth[5:9, 5:10] = CAR
    truth[15:17, :5] = CAR
    instances = truth.astype(np.uint16)
    instances[5:9, 5:10] = 1000 * CAR  # 20 pixels
    instances[15:17, :5] = 1000 * CAR + 1  # 10 pixels
    guess = np.full((20, 20), ROAD, np.uint8)
    guess[5:9, 5:9] = CAR  # 16 of the first car
    guess[5:9, 9] = TRUCK  # its other 4: the right category
    guess[0] = CAR  # where nothing is evaluated
    guess[19, :3] = CAR  # 3 of the road
    counts.update(guess, truth, instances)
    scores = counts.scores()
    size = label_table().average_size["car"]
    assert size == pytest.approx(12794.02, abs=0.01)
    assert scores["IoU-car"] == pytest.approx(100 * 16 / (16 + 14 + 3))
    assert scores["IoU-road"] == pytest.approx(100 * 347 / (347 + 3 + 10))
    assert scores["IoU-truck"] == 0 and np.isnan(scores["IoU-bus"])
    assert scores["IoU"] == pytest.approx((scores["IoU-car"] + scores["IoU-road"]) / 3)
    assert scores["iIoU-car"] == pytest.approx(100 * (size / 20 * 16) / (2 * size + 3))
    assert scores["IoU_sup-vehicle"] == pytest.approx(100 * 20 / (30 + 3))
    assert scores["iIoU_sup"] == scores["iIoU_sup-vehicle"] == pytest.approx(100 * size / (2 * size + 3))


def test_boundary_scores_come_along(dataset):
    name, files = dataset
    perfect = []
    for file in files:
        truth = np.array(Image.open(str(file).replace("leftImg8bit", "gtFine").replace(".png", "_labelIds.png")))
        guess = np.minimum(label_table().train_id[truth], 18).astype(np.int64)
        perfect.append(torch.nn.functional.one_hot(torch.from_numpy(guess), 19).permute(2, 0, 1).float())
    scores = run(CityscapesSemSegEvaluator(name, boundary_widths=(3, 5)), files, perfect)
    assert scores["boundary_mIoU_3px"] == scores["boundary_mIoU_5px"] == scores["boundary_mIoU"] == 100


def test_images_left_out_or_seen_twice(dataset):
    name, files = dataset
    evaluator = CityscapesSemSegEvaluator(name)
    outputs = predictions(files)
    message = (
        r"of 4 images there are 1 without prediction \(there_000003_000019\); 1 predicted more than once \(here_00"
    )
    with pytest.raises(ValueError, match=message):
        run(evaluator, [*files[:3], files[0]], [*outputs[:3], outputs[0]])
    assert run(evaluator, files, outputs)["IoU"] > 0  # reset forgets


def test_what_does_not_fit_is_named(dataset):
    name, files = dataset
    evaluator = CityscapesSemSegEvaluator(name)
    file = {"file_name": str(files[0])}
    with pytest.raises(ValueError, match=r"here_000000_000019 of toy.*prediction is \(8, 9\), labelIds \(96, 160\)"):
        evaluator.process([file], [{"sem_seg": torch.zeros(19, 8, 9)}])
    with pytest.raises(ValueError, match=r"network predicts 54 classes, Cityscapes has 19: set MODEL.SEM_SEG_HEAD"):
        evaluator.process([file], [{"sem_seg": torch.zeros(54, 96, 160)}])
    with pytest.raises(ValueError, match=r"mars_000000_000001_leftImg8bit.png has no ground truth in toy_cityscapes"):
        evaluator.process([{"file_name": "mars_000000_000001_leftImg8bit.png"}], [{"sem_seg": torch.zeros(19, 4, 4)}])
    with pytest.raises(ValueError, match="<city>_<sequence>_<frame>_<kind>"):
        evaluator.process([{"file_name": "photo.png"}], [{"sem_seg": torch.zeros(19, 4, 4)}])
    wrong = np.full((4, 4), LABELS, np.uint8)
    with pytest.raises(ValueError, match=r"labelIds hold 34\.\.34; allowed are 0\.\.33"):
        CityscapesCounts().update(wrong * 0, wrong, wrong)


def test_absent_ground_truth(tmp_path):
    name = f"toy_cityscapes_{tmp_path.name}"
    MetadataCatalog.get(name).set(gt_dir=str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"labelIds.png for toy_cityscapes.*: unpack gtFine_trainvaltest.zip"):
        CityscapesSemSegEvaluator(name)
    MetadataCatalog.remove(name)


def test_refusal_of_the_script_is_an_error(dataset, tmp_path):
    name, _ = dataset
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(tmp_path / "small.png")
    truth = CityscapesSemSegEvaluator(name)._labels.popitem()[1]
    with pytest.raises(ValueError, match=r"cityscapesscripts refuses to score: Image widths of .*small.png and"):
        semantic_scores([(str(tmp_path / "small.png"), truth)])


def test_numpy_is_lent_a_name_and_takes_it_back():
    before = hasattr(np, "in1d")
    with todays_numpy():
        assert np.in1d(np.array([1, 2]), [2]).tolist() == [False, True]
    assert hasattr(np, "in1d") == before
