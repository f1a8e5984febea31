"""Panoptic quality: by hand, and equal to panopticapi on random maps and on COCO's own examples."""

import copy
import json

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator
from PIL import Image

from fapn_d2.data.panoptic_png import read_segment_ids, write_segment_ids
from fapn_d2.evaluation.panoptic import PanopticEvaluator
from fapn_d2.evaluation.panoptic_counts import PanopticCounts

CATEGORIES = [{"id": i, "isthing": int(i % 3 != 0), "name": f"c{i}"} for i in (3, 7, 8, 9, 20)]


def random_case(rng) -> tuple[np.ndarray, list[dict], np.ndarray, list[dict]]:
    """Truth with void, crowds, large ids, areas that are not quite right, segments listed but absent and the reverse;
    a prediction that resembles it."""
    ids = np.array([0, *rng.choice(256**3 - 1, 14, replace=False) + 1])
    truth = np.kron(rng.choice(ids, (5, 6)), np.ones((7, 8), int))
    numbers = [int(i) for i in ids[1:13]]  # two are not listed
    if rng.random() < 0.2:
        numbers.append(0)  # void listed as a segment
    segments = [
        {
            "id": number,
            "category_id": int(rng.choice([c["id"] for c in CATEGORIES])),
            "iscrowd": int(rng.random() < 0.3),
            "area": max(int((truth == number).sum() + rng.integers(-3, 4)), 1),
        }
        for number in numbers
    ]
    named = {s["id"]: s["category_id"] for s in segments}
    other = np.kron(rng.choice(ids, (7, 6)), np.ones((5, 8), int))
    prediction = np.where(rng.random((35, 48)) < 0.15, other, np.where(rng.random((35, 48)) < 0.1, 0, truth))
    if rng.random() < 0.3:
        prediction = np.where(truth == ids[1], ids[2], prediction)  # two merged
    categories = [int(rng.choice([named.get(int(i), 3), 7])) for i in np.unique(prediction)]
    found = [{"id": int(i), "category_id": c} for i, c in zip(np.unique(prediction), categories) if i or 0 in named]
    return truth, segments, prediction, found


def panopticapi_scores(cases, folder) -> dict[str, float]:
    api = pytest.importorskip("panopticapi.evaluation")
    pairs = []
    for number, (truth, segments, prediction, found) in enumerate(cases):
        write_segment_ids(str(folder / f"t{number}.png"), truth)
        write_segment_ids(str(folder / f"p{number}.png"), prediction)
        pairs.append(
            (
                {"image_id": number, "file_name": f"t{number}.png", "segments_info": segments},
                {"image_id": number, "file_name": f"p{number}.png", "segments_info": copy.deepcopy(found)},
            )
        )
    categories = {c["id"]: c for c in CATEGORIES}
    stat = api.pq_compute_single_core(0, pairs, str(folder), str(folder), categories)
    scores = {}
    for suffix, isthing in (("", None), ("_th", True), ("_st", False)):
        average, _ = stat.pq_average(categories, isthing=isthing)
        scores |= {f"{name.upper()}{suffix}": 100 * average[name] for name in ("pq", "sq", "rq")}
    return scores


@pytest.mark.parametrize("seed", range(12))
def test_equal_to_panopticapi(seed, tmp_path):
    rng = np.random.default_rng(seed)
    cases = [random_case(rng) for _ in range(3)]
    counts = PanopticCounts(CATEGORIES)
    for case in cases:
        counts.update(*case)
    expected = panopticapi_scores(cases, tmp_path)
    assert 0 < expected["PQ"] < 100
    assert counts.scores() == pytest.approx(expected, abs=1e-12, rel=1e-14)


def test_by_hand():
    truth = np.zeros((1, 40), int)
    truth[0, :10], truth[0, 10:20], truth[0, 20:26], truth[0, 30:34] = 1, 2, 3, 4
    segments = [
        {"id": 1, "category_id": 7, "iscrowd": 0, "area": 10},
        {"id": 2, "category_id": 7, "iscrowd": 0, "area": 10},
        {"id": 3, "category_id": 3, "iscrowd": 0, "area": 6},
        {"id": 4, "category_id": 7, "iscrowd": 1, "area": 4},
    ]
    prediction = np.zeros((1, 40), int)
    prediction[0, :8] = 5  # 8 of the first 10: a match with IoU 0.8
    prediction[0, 10:15] = 6  # half of the second: no match; misses it and is wrong
    prediction[0, 20:29] = 7  # the third and 3 of void, which do not count: a match with IoU 1
    prediction[0, 30:34] = 8  # all on the crowd: nothing
    prediction[0, 36:39] = 9  # all on void: nothing
    found = [{"id": i, "category_id": c} for i, c in ((5, 7), (6, 7), (7, 3), (8, 7), (9, 3))]
    counts = PanopticCounts(CATEGORIES)
    counts.update(truth, segments, prediction, found)
    scores = counts.scores()
    assert scores["SQ_th"] == pytest.approx(80) and scores["RQ_th"] == pytest.approx(100 * 1 / 2)
    assert scores["PQ_th"] == pytest.approx(40)
    assert scores["PQ_st"] == scores["SQ_st"] == scores["RQ_st"] == 100
    assert scores["PQ"] == pytest.approx(70)


def test_nothing_predicted_and_nothing_there():
    counts = PanopticCounts(CATEGORIES)
    assert np.isnan(counts.scores()["PQ"])
    segments = [{"id": 1, "category_id": 7, "iscrowd": 0, "area": 9}]
    counts.update(np.ones((3, 3), int), segments, np.zeros((3, 3), int), [])
    counts.update(np.zeros((3, 3), int), [], np.ones((3, 3), int), [{"id": 1, "category_id": 9}])
    scores = counts.scores()
    assert scores["PQ"] == scores["PQ_th"] == 0 and np.isnan(scores["PQ_st"])  # on void only: no false positive


def test_png_holds_ids_up_to_three_bytes(tmp_path):
    ids = np.array([[0, 1, 255], [256, 65536, 256**3 - 1]])
    write_segment_ids(str(tmp_path / "a.png"), ids)
    assert (read_segment_ids(str(tmp_path / "a.png")) == ids).all()
    from panopticapi.utils import rgb2id

    assert (rgb2id(np.array(Image.open(tmp_path / "a.png"))) == ids).all()


@pytest.fixture
def coco(real_images):
    """COCO's two published examples: name, annotations, folder."""
    annotations = json.loads((real_images / "panoptic.json").read_text())
    categories = annotations["categories"]
    name = "toy_coco_panoptic_sample"
    MetadataCatalog.get(name).set(
        panoptic_json=str(real_images / "panoptic.json"),
        panoptic_root=str(real_images / "panoptic"),
        label_divisor=1000,
        **{
            f"{kind}_dataset_id_to_contiguous_id": {
                c["id"]: i for i, c in enumerate(categories) if c["isthing"] == isthing
            }
            for kind, isthing in (("thing", 1), ("stuff", 0))
        },
    )
    yield name, annotations, real_images / "panoptic"
    MetadataCatalog.remove(name)


def coco_outputs(annotations, folder) -> list[tuple[dict, dict]]:
    """The examples with small ids, moved by some pixels, every fourth segment under another category."""
    order = {c["id"]: i for i, c in enumerate(annotations["categories"])}
    things = {c["id"] for c in annotations["categories"] if c["isthing"]}
    batch = []
    for annotation in annotations["annotations"]:
        truth = read_segment_ids(str(folder / annotation["file_name"]))
        moved, segments = np.zeros(truth.shape, np.int32), []
        for number, segment in enumerate(annotation["segments_info"], start=1):
            moved[np.roll(truth == segment["id"], number % 5, axis=number % 2)] = number
            category = segment["category_id"] if number % 4 else 1
            segments.append({"id": number, "category_id": order[category], "isthing": category in things})
        segments = [s for s in segments if (moved == s["id"]).any()]
        inputs = {"image_id": annotation["image_id"], "file_name": annotation["file_name"].replace("png", "jpg")}
        batch.append((inputs, {"panoptic_seg": (torch.from_numpy(moved), segments)}))
    return batch


def run(evaluator, batch) -> dict:
    evaluator.reset()
    for inputs, output in copy.deepcopy(batch):
        evaluator.process([inputs], [output])
    return evaluator.evaluate()["panoptic_seg"]


def test_equal_to_detectron2_on_coco(coco, monkeypatch):
    name, annotations, folder = coco
    api = pytest.importorskip("panopticapi.evaluation")
    monkeypatch.setattr(api.multiprocessing, "cpu_count", lambda: 1)
    batch = coco_outputs(annotations, folder)
    before = copy.deepcopy(batch)
    ours, theirs = run(PanopticEvaluator(name), batch), run(COCOPanopticEvaluator(name), batch)
    assert 20 < theirs["PQ"] < 90 and list(ours) == list(theirs)
    assert ours == pytest.approx(theirs, abs=1e-12, rel=1e-14)
    PanopticEvaluator(name).process(*([part] for part in batch[0]))
    assert batch[0][1]["panoptic_seg"][1] == before[0][1]["panoptic_seg"][1]  # what the network gave is left as it was


def test_ids_that_encode_the_category(coco):
    """The other form of a prediction, as Panoptic-DeepLab gives it."""
    name, annotations, folder = coco
    batch = coco_outputs(annotations, folder)
    encoded = []
    for inputs, output in batch:
        ids, segments = output["panoptic_seg"]
        image = torch.full(ids.shape, -1)
        for segment in segments:
            image[ids == segment["id"]] = segment["category_id"] * 1000 + segment["id"]
        encoded.append((inputs, {"panoptic_seg": (image, None)}))
    assert run(PanopticEvaluator(name), encoded) == pytest.approx(run(PanopticEvaluator(name), batch))


def test_kept_predictions_score_the_same_in_panopticapi(coco, tmp_path, monkeypatch):
    name, annotations, folder = coco
    api = pytest.importorskip("panopticapi.evaluation")
    monkeypatch.setattr(api.multiprocessing, "cpu_count", lambda: 1)
    ours = run(PanopticEvaluator(name, str(tmp_path / "out")), coco_outputs(annotations, folder))
    metadata = MetadataCatalog.get(name)
    official = api.pq_compute(
        metadata.panoptic_json,
        str(tmp_path / "out" / "predictions.json"),
        metadata.panoptic_root,
        str(tmp_path / "out"),
    )
    assert 100 * official["All"]["pq"] == pytest.approx(ours["PQ"], abs=1e-12)


def test_without_public_ground_truth(coco, tmp_path):
    name, annotations, folder = coco
    annotated = annotations["annotations"]
    (tmp_path / "info.json").write_text(json.dumps({k: v for k, v in annotations.items() if k != "annotations"}))
    test_name = "toy_coco_panoptic_test"
    MetadataCatalog.get(test_name).set(
        **{**MetadataCatalog.get(name).as_dict(), "name": test_name, "panoptic_json": str(tmp_path / "info.json")}
    )
    with pytest.raises(ValueError, match=r"info.json holds no annotations: .* needs a prediction_dir"):
        PanopticEvaluator(test_name)
    evaluator = PanopticEvaluator(test_name, str(tmp_path / "out"))
    for inputs, output in coco_outputs(annotations, folder):
        evaluator.process([inputs], [output])
    assert evaluator.evaluate() is None
    kept = json.loads((tmp_path / "out" / "predictions.json").read_text())["annotations"]
    assert [k["image_id"] for k in kept] == [a["image_id"] for a in annotated]
    MetadataCatalog.remove(test_name)


def test_errors_name_what_is_wrong(coco):
    name, annotations, folder = coco
    batch = coco_outputs(annotations, folder)
    evaluator = PanopticEvaluator(name)
    with pytest.raises(ValueError, match=r"of 2 images there are 1 without prediction \("):
        run(evaluator, batch[:1])
    inputs, (ids, segments) = batch[0][0], batch[0][1]["panoptic_seg"]
    with pytest.raises(ValueError, match=r"image 7 .*has no ground truth in toy_coco"):
        evaluator.process([{**inputs, "image_id": 7}], [batch[0][1]])
    for wrong, message in (
        ((ids, segments[1:]), "predicted segment 1 is in the image but not listed"),
        ((ids, [*segments, {**segments[0], "id": 99}]), "predicted segment 99 is listed but has no pixel"),
        ((ids[1:], segments), r"prediction is \(\d+, \d+\), ground truth \(\d+, \d+\)"),
        ((ids - 1, segments), "predicted id -1 is negative; void is 0"),
        ((ids, [{"id": s["id"], "category_id": 9999} for s in segments]), "unknown category_id 9999"),
    ):
        with pytest.raises(ValueError, match=f"image {inputs['image_id']} of toy_coco.*{message}"):
            evaluator.process([inputs], [{"panoptic_seg": wrong}])


def test_unreadable_ground_truth(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.png is absent"):
        read_segment_ids(str(tmp_path / "gone.png"))
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(ValueError, match=r"text\.png is not an image"):
        read_segment_ids(str(tmp_path / "text.png"))
