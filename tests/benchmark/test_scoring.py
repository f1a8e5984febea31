"""The benchmark of scoring: both ways give the same numbers, and the projection is what it says."""

import importlib.util
import json
from pathlib import Path

import pytest

from fapn_d2.benchmark import scoring as benchmark


@pytest.mark.parametrize("measure", ["cityscapes", "boundary", "panoptic"])
def test_both_ways_agree(measure, tmp_path):
    needed = {"cityscapes": "cityscapesscripts", "boundary": "cityscapesscripts", "panoptic": "panopticapi"}[measure]
    pytest.importorskip(needed)
    timing = getattr(benchmark, measure)(tmp_path, images=3, processes=1, size=(96, 160))
    assert timing.difference < 1e-11
    assert timing.seconds_per_image > 0 and timing.reference_seconds_per_image > 0


def test_coco_agrees(tmp_path):
    pytest.importorskip("hotcoco")
    assert benchmark.coco(tmp_path, images=20).difference < 1e-9


def test_proposals_agree(tmp_path):
    timing = benchmark.proposals(tmp_path, images=12, processes=1, per_image=150)
    assert timing.difference == 0 and timing.images == 5000


def test_projection():
    timing = benchmark.Timing("AP", "script", 0.01, 0.2, processes=2, images=500, difference=0.0)
    assert timing.projected() == (pytest.approx(5), pytest.approx(100))


def test_program(tmp_path, capsys):
    pytest.importorskip("hotcoco")
    path = Path(__file__).resolve().parents[2] / "tools" / "benchmark_evaluation.py"
    spec = importlib.util.spec_from_file_location("benchmark_evaluation", path)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    program.main(program.parse(["coco", "--images", "10", "--processes", "1", "--json", str(tmp_path / "out/a.json")]))
    header, line = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["measure", "processes"] and line.startswith("COCO: box AP by hotcoco")
    assert line.endswith("(pycocotools)")
    assert json.loads((tmp_path / "out/a.json").read_text())[0]["images"] == 5000
    for wrong, message in (
        (["speed"], "'speed' is not a measure; allowed are cityscapes"),
        (["--processes", "0"], "at least one"),
    ):
        with pytest.raises(SystemExit):
            program.parse(wrong)
        assert message in capsys.readouterr().err
