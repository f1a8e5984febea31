"""The demo on a budget of seconds, from training to page, and its parts on numbers made by hand."""

import json
import re

import numpy as np
import pytest

from fapn_d2.data import generate_shapes
from fapn_d2.demo.networks import BETTER, HEADER, NETWORKS, demo_config, run_demo, score_of, text_table
from fapn_d2.demo.page import class_maps, legend_of, score_text, write_report
from fapn_d2.visualization.segments import Segments
from tests.demo.test_page import Reader, assert_self_contained

#: Everything small; the wiring stays.
TINY = [
    "SOLVER.IMS_PER_BATCH",
    "2",
    "INPUT.MIN_SIZE_TRAIN",
    "(64,)",
    "INPUT.MAX_SIZE_TRAIN",
    "96",
    "INPUT.MIN_SIZE_TEST",
    "64",
    "INPUT.MAX_SIZE_TEST",
    "96",
    "MODEL.FPN.OUT_CHANNELS",
    "32",
    "MODEL.DEVICE",
    "cpu",
]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """(networks, page, folder) of a demo of two iterations on four images."""
    root = tmp_path_factory.mktemp("demo")
    generate_shapes(root / "data" / "shapes", splits={"train": 4, "val": 2}, size=(64, 96))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(root / "data"))
        (root / "out" / "FPN").mkdir(parents=True)
        (root / "out" / "FPN" / "metrics.json").write_text('{"iteration": 7, "total_loss": 9.0}\n')  # an older demo's
        networks = run_demo(root / "out", shrink=1e-6, opts=TINY)
        page = write_report(networks, root / "out" / "report.html", seconds=12.3, command="make demo")
    return networks, page, root / "out"


def test_both_networks_are_trained_and_scored_alike(demo):
    networks, _, folder = demo
    assert [t.name for t in networks] == ["FPN", "FaPN"]
    fpn, fapn = (t.cfg.clone() for t in networks)
    for cfg in (fpn, fapn):
        cfg.defrost()
        cfg.OUTPUT_DIR = ""
    assert fpn.SOLVER.MAX_ITER == 2 and fpn.SEED >= 0
    fpn.MODEL.NECK.PRESET = fapn.MODEL.NECK.PRESET
    assert fpn == fapn  # nothing but the neck
    assert networks[1].parameters > networks[0].parameters
    for network in networks:
        assert not network.model.training and network.milliseconds > 0 and network.seconds > 0
        assert [i for i, _ in network.losses["total_loss"]] == [2], network.losses
        total = network.losses["total_loss"][0][1]
        parts = [values[0][1] for name, values in network.losses.items() if name != "total_loss"]
        assert len(parts) == 6 and sum(parts) == pytest.approx(total, rel=0.05)
        assert json.loads((folder / network.name / "results.json").read_text()).keys() == network.results.keys()
        assert (folder / network.name / "model_final.pth").exists() and (folder / network.name / "config.yaml").exists()
    assert "Evaluat" in (folder / "log.txt").read_text()


def test_table_has_the_scores_of_the_evaluators(demo):
    networks, _, _ = demo
    header, rule, *rows = text_table(networks).splitlines()
    assert re.split(r"\s{2,}", header) == list(HEADER) and set(rule) == {"-"} and len(HEADER) == len(BETTER)
    for network, row in zip(networks, rows, strict=True):
        cells = re.split(r"\s{2,}", row.strip())
        assert cells[0] == network.name
        assert cells[1] == f"{network.results['bbox']['AP']:.1f}" and cells[2] == f"{network.results['segm']['AP']:.1f}"
        assert cells[3] == f"{network.results['panoptic_seg']['PQ']:.1f}"
        assert cells[4] == f"{network.results['sem_seg']['mIoU']:.1f}"
        assert cells[5] == f"{network.parameters / 1e6:.2f} M" and float(cells[6]) > 0


def test_page_shows_all_parts(demo):
    _, page, _ = demo
    text = page.read_text()
    assert_self_contained(text)
    reader = Reader(text)
    said = " ".join(reader.text)
    for heading in ("Scores", "Predictions", "Where they differ", "before and after alignment", "Loss curves", "made"):
        assert heading in said
    assert "do not rank the two methods" in re.sub(r"\s+", " ", said)
    captions = [a["alt"] for a in reader.all("img")]
    assert captions.count("FPN") == captions.count("FaPN") == 4  # two images, two windows
    assert captions.count("ground truth") == 6
    assert sum("P3 to P2 before" in c for c in captions) == sum("P3 to P2 after" in c for c in captions) == 3
    assert sum("P5 to P4" in c for c in captions) == 2
    assert len(reader.all("svg")) == 7


def test_options_are_checked():
    with pytest.raises(ValueError, match=r"--shrink takes a factor in \(0, 1\], got 0"):
        run_demo("unused", shrink=0)
    with pytest.raises(ValueError, match=r"unknown config key SOLVER.MAXITER .*nearest: SOLVER.MAX_ITER"):
        demo_config("FPN", "unused", shrink=1, opts=["SOLVER.MAXITER", "3"])
    half, whole = (demo_config("FaPN", "unused", shrink=s, opts=[]).SOLVER.MAX_ITER for s in (0.5, 1))
    assert half == round(whole / 2)


class Scored:
    def __init__(self, name, scores, parameters, milliseconds):
        tasks = (("bbox", "AP"), ("segm", "AP"), ("panoptic_seg", "PQ"), ("sem_seg", "mIoU"))
        self.results = {task: {metric: score} for (task, metric), score in zip(tasks, scores)}
        self.name, self.parameters, self.milliseconds = name, parameters, milliseconds


def test_sentence_says_who_is_ahead():
    text = score_text([Scored("FPN", (10, 20, 30, 40), 100, 50), Scored("FaPN", (12.5, 20.04, 29, 39.9), 110, 75)])
    assert text == (
        "In this run FaPN is ahead in box AP (+2.5); it is level in mask AP; it is behind in PQ (-1.0), mIoU (-0.1). "
        "It has +10% parameters and takes 1.50 times as long for an image."
    )
    text = score_text([Scored("FPN", (1, 1, 1, 1), 1, 1), Scored("FaPN", (2, 2, 2, 2), 1, 1)])
    assert text.startswith("In this run FaPN is ahead in box AP (+1.0), mask AP (+1.0), PQ (+1.0), mIoU (+1.0). It")


def test_a_network_that_finds_nothing_has_no_score():
    results = {"bbox": {"AP": None}, "sem_seg": {"mIoU": 40.0}}  # as results.json has them
    assert [score_of(results, name) for name in ("box AP", "mask AP", "mIoU")] == pytest.approx(
        [float("nan"), float("nan"), 40.0], nan_ok=True
    )


def test_class_maps_share_their_numbers():
    a, b = Segments(np.zeros((1, 3), np.int32)), Segments(np.zeros((1, 3), np.int32))
    a.add(np.array([[True, False, False]]), "cat", (9, 9, 9), is_thing=True)
    b.add(np.array([[False, True, False]]), "ant", (9, 9, 9), is_thing=False)
    b.add(np.array([[True, False, False]]), "cat", (9, 9, 9), is_thing=True)
    assert [m.tolist() for m in class_maps(a, b)] == [[[1, -1, -1]], [[1, 0, -1]]]

    class Sample:
        truth = b

    assert [name for name, _ in legend_of([Sample])] == ["cat", "ant"]  # objects first


def test_both_configs_are_shipped():
    assert set(NETWORKS) == {"FPN", "FaPN"}
