"""Boundary mIoU against hand-computed numbers and against a search over all pairs of pixels."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from fapn_d2.evaluation import SemSegEvaluator
from fapn_d2.evaluation.boundary_iou import PAPER_WIDTHS, BoundaryConfusion, boundary_rings

VOID = 255


def _slow_rings(labels, widths):
    height, width = labels.shape
    y, x = np.mgrid[:height, :width]
    nearest = np.full(labels.shape, np.inf)
    for i in range(height):
        for j in range(width):
            squared = (y - i) ** 2 + (x - j) ** 2
            nearest[i, j] = squared[labels != labels[i, j]].min(initial=np.iinfo(int).max)
    return np.sum([nearest > w**2 for w in widths], axis=0)


def test_straight_outline_has_n_pixels_on_either_side():
    labels = np.zeros((4, 40), np.uint8)
    labels[:, 20:] = 1
    rings = boundary_rings(labels, (3, 5, 8, 12))
    for i, width in enumerate((3, 5, 8, 12)):
        assert np.flatnonzero(rings[0] <= i).tolist() == list(range(20 - width, 20 + width))
    assert (rings == rings[0]).all()


def test_disk_is_euclidean():
    labels = np.zeros((15, 15), np.uint8)
    labels[7, 7] = 1
    band = boundary_rings(labels, (5,)) == 0
    assert band[7, 2] and band[7, 12] and band[3, 4]  # (4, 3): distance 5
    assert not band[7, 1] and not band[3, 3]  # distance 6 and 5.66


@pytest.mark.parametrize("seed", range(4))
def test_rings_equal_search_over_all_pairs(seed):
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, 3, (4, 5)), np.ones((7, 9), int))[: 21 + seed, : 40 - seed].astype(np.uint8)
    labels[rng.random(labels.shape) < 0.01] = VOID
    assert (boundary_rings(labels, (1, 3, 6)) == _slow_rings(labels, (1, 3, 6))).all()


def test_labels_beyond_a_byte():
    labels = np.zeros((3, 12), np.int64)
    labels[:, 6:] = 256  # equal to 0 in a byte
    assert (boundary_rings(labels, (2,))[0] == [1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1]).all()


def test_one_label_has_no_boundary_and_no_score():
    confusion = BoundaryConfusion(2, ignore_label=VOID)
    confusion.update(np.zeros((9, 9), int), np.ones((9, 9), np.uint8))
    assert confusion.matrices().sum() == 0
    assert all(np.isnan(score) for score in confusion.scores().values())


def test_scores_by_hand():
    # one row: ten pixels of class 0, eight of class 1, two of void; bands of 1 and 3 px
    truth = np.array([[0] * 10 + [1] * 8 + [VOID] * 2], np.uint8)
    guess = truth.copy()
    guess[0, 18:] = 0  # void, never counted
    guess[0, 9] = 1  # next to the outline: in both bands
    guess[0, 7] = 1  # third pixel from the outline: in the wider one
    guess[0, 0] = 1  # in no band
    guess[0, 17] = 0  # next to the outline against void
    confusion = BoundaryConfusion(2, ignore_label=VOID, widths=(1, 3))
    confusion.update(guess, truth)
    narrow, wide = confusion.matrices()
    assert narrow.tolist() == [[0, 1], [1, 1]]  # pixels 9 | 10, 17
    assert wide.tolist() == [[1, 2], [1, 5]]  # pixels 7, 8, 9 | 10, 11, 12, 15, 16, 17
    scores = confusion.scores()
    assert scores["boundary_mIoU_1px"] == pytest.approx(100 * (0 + 1 / 3) / 2)
    assert scores["boundary_mIoU_3px"] == pytest.approx(100 * (1 / 4 + 5 / 8) / 2)
    assert scores["boundary_mIoU"] == pytest.approx((100 / 6 + 43.75) / 2)


def test_images_add_up_and_reset_forgets():
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(0, 4, (20, 30)), rng.integers(0, 4, (20, 30))) for _ in range(3)]
    one, both = (BoundaryConfusion(4, ignore_label=VOID) for _ in range(2))
    parts = []
    for guess, truth in pairs:
        both.update(guess, truth)
        one.reset()
        one.update(guess, truth)
        parts.append(one.matrices())
    assert (sum(parts) == both.matrices()).all()
    assert list(both.scores()) == [f"boundary_mIoU_{w}px" for w in PAPER_WIDTHS] + ["boundary_mIoU"]


def test_class_absent_from_the_band_does_not_enter_the_mean():
    truth = np.zeros((1, 40), np.uint8)
    truth[0, 5] = 1
    guess = truth.copy()
    guess[0, 4] = 2  # a class that the ground truth lacks
    confusion = BoundaryConfusion(3, ignore_label=VOID, widths=(2,))
    confusion.update(guess, truth)
    assert confusion.scores()["boundary_mIoU_2px"] == pytest.approx(100 * (3 / 4 + 1) / 2)


@pytest.mark.parametrize("widths", [(), (0, 3), (5, 3), (3, 3)])
def test_wrong_widths(widths):
    with pytest.raises(ValueError, match=r"positive and ascending numbers of pixels, got \["):
        BoundaryConfusion(2, ignore_label=VOID, widths=widths)


def test_wrong_labels_and_sizes_are_named():
    confusion = BoundaryConfusion(2, ignore_label=VOID)
    truth = np.array([[0, 1]])
    with pytest.raises(ValueError, match=r"ground truth holds label 7; allowed are 0..1 and 255 \(void\)"):
        confusion.update(truth, np.array([[0, 7]]))
    with pytest.raises(ValueError, match=r"prediction holds label 2; allowed are 0..1$"):
        confusion.update(np.array([[0, 2]]), truth)
    with pytest.raises(ValueError, match=r"\(1, 2\), ground truth \(2, 1\)"):
        confusion.update(truth, truth.T)


def test_semantic_evaluator_reports_them(tmp_path):
    labels = np.zeros((9, 30), np.uint8)
    labels[:, 15:] = 1
    labels[0] = 7  # not labelled
    Image.fromarray(labels).save(tmp_path / "a.png")
    name = f"toy_boundary_{tmp_path.name}"
    DatasetCatalog.register(name, lambda: [{"file_name": "a.jpg", "sem_seg_file_name": str(tmp_path / "a.png")}])
    MetadataCatalog.get(name).set(stuff_classes=["left", "right"], ignore_label=7)
    evaluator = SemSegEvaluator(name, boundary_widths=(3, 5))
    prediction = torch.zeros(2, 9, 30)
    prediction[1, :, 13:] = 1  # two columns too far to the left
    for _ in range(2):
        evaluator.reset()
        evaluator.process([{"file_name": "a.jpg"}], [{"sem_seg": prediction}])
    scores = evaluator.evaluate()["sem_seg"]
    # Three rows are near the unlabelled one over their whole width, of the other five rows six columns are in the band.
    right, wrong = (3 * 13 + 5 * 1, 3 * 15 + 5 * 3), 8 * 2
    expected = 100 * np.mean([right[0] / (right[0] + wrong), right[1] / (right[1] + wrong)])
    assert scores["boundary_mIoU_3px"] == pytest.approx(expected)
    assert scores["boundary_mIoU"] == pytest.approx((scores["boundary_mIoU_3px"] + scores["boundary_mIoU_5px"]) / 2)
    assert "boundary_mIoU" not in SemSegEvaluator(name).evaluate()["sem_seg"]
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)
