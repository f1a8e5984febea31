"""Speed and accuracy out of ledger, records and timings; labels that do not cover each other; the command."""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from fapn_d2.reproduction.ledger import iterate_rows, load_ledger, load_ledgers
from fapn_d2.reproduction.speed_accuracy import MEASURED, OTHERS, PAPER, Timing, read_timings, speed_tables
from fapn_d2.visualization.scatter import Series, draw_scatter, place_labels

ROOT = Path(__file__).resolve().parents[2]
LEDGER = """
paper: toy
title: "Toys: fast ones (1999)"
tables:
- name: Table 1
  about: Toys on a table.
  rows:
  - {id: toy.t1.a, method: "Toy(A), A", config: net.yaml, paper: {mIoU: 70.0, FPS: 50, FPS_tensorrt: 61.5},
     measured: {runs: [{seed: 1, metrics: {mIoU: 71.0}}, {seed: 2, metrics: {mIoU: 72.0}}]}}
  - {id: toy.t1.b, method: "Toy, B", config: net.yaml, paper: {mIoU_val: 60.0, mIoU_test: 61.0, FPS: 90}}
  - {id: toy.t1.c, method: "Toy, C", pending: no data, paper: {mIoU: 50.0, FPS: 99}}
  - {id: toy.t1.d, method: "Toy, B", config: net.yaml, overrides: {INPUT.MIN_SIZE_TEST: 512},
     paper: {mIoU: 62.0, FPS: 40}}
- name: Table 2
  about: Speed alone.
  rows:
  - {id: toy.t2.a, method: A, config: net.yaml, paper: {FPS: 10}}
"""


@pytest.fixture
def ledgers(tmp_path):
    (tmp_path / "net.yaml").write_text("INPUT: {MIN_SIZE_TEST: 256, MAX_SIZE_TEST: 1024}\n")
    (tmp_path / "tables.yaml").write_text(LEDGER)
    return [load_ledger(tmp_path / "tables.yaml")]


def write_timings(path):
    def measured(name, row, ms, **more):
        return {"suite": "speed", "setting": {"paper_row": row}, "name": name, "median_ms": ms, "items": 1, **more}

    measurements = [
        measured("float32", "toy.t1.a", 20.0),
        measured("bfloat16, compiled", "toy.t1.a", 8.0, items=2),
        measured("float32", "toy.t1.b", 10.0),
        measured("float32", None, 1.0),
        {"suite": "ops", "setting": {"images": "1x1"}, "name": "ours", "median_ms": 1.0, "items": 1},
    ]
    path.write_text(json.dumps({"device": "a GPU", "measurements": measurements}))
    return path


def test_points_of_a_table(ledgers, tmp_path):
    timings = read_timings(write_timings(tmp_path / "speed.json"))
    assert timings[1] == Timing("toy.t1.a", 250.0, "a GPU", "bfloat16, compiled") and len(timings) == 3
    (table,) = speed_tables(ledgers, [], timings)
    assert (table.slug, table.title, table.about) == ("toy.t1", "Toys, Table 1", "Toys on a table.")
    found = [(p.label, p.kind, p.fps, p.miou, p.note) for p in table.points]
    assert found == [
        ("Toy(A)", PAPER, 50, 70.0, "61.5 fps with TensorRT"),
        ("Toy(A)", MEASURED, 250.0, 71.5, "a GPU, bfloat16, compiled; mean of 2 runs"),
        ("Toy, B, 256x1024", PAPER, 90, 61.0, ""),
        ("Toy, B, 256x1024", MEASURED, 100.0, None, "a GPU, float32"),
        ("Toy, C", PAPER, 99, 50.0, ""),
        ("Toy, B, 512x1024", PAPER, 40, 62.0, ""),
    ]
    lines = table.text().splitlines()
    assert lines[2].strip() == "paper, its GPU:"
    assert [line.split()[-2:] for line in lines[3:6]] == [["99.0", "50.0"], ["90.0", "61.0"], ["with", "TensorRT"]]
    assert lines[-1].split() == ["Toy,", "B,", "256x1024", "100.0", "-", "a", "GPU,", "float32"]
    with pytest.raises(ValueError, match=r"starts with 'toy\.t2'; there are \['toy\.t1'\]"):
        speed_tables(ledgers, [], [], prefix="toy.t2")


def test_an_accuracy_from_weaker_weights_is_labelled(ledgers, tmp_path):
    (ledger,) = ledgers
    weak = replace(ledger, rows=tuple(replace(row, start="random weights") for row in ledger.rows))
    (table,) = speed_tables([weak], [], read_timings(write_timings(tmp_path / "speed.json")))
    labels = [(p.label, p.kind) for p in table.points]
    assert ("Toy(A), from random weights", MEASURED) in labels and ("Toy(A)", PAPER) in labels
    assert ("Toy, B, 256x1024", MEASURED) in labels  # only its speed was measured


def test_other_files_are_refused(tmp_path):
    for text in ("not JSON", "[]", "{}", '{"measurements": [{"suite": "speed"}], "device": "x"}'):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ValueError, match=r"x\.json is not a file of tools/benchmark\.py speed --json"):
            read_timings(tmp_path / "x.json")


def test_the_papers_tables():
    tables = {t.slug: t for t in speed_tables(load_ledgers(), [], [])}
    assert {"sfnet.t6", "sfnet.t10", "fapn.t8a", "fapn.t8b"} <= set(tables)
    ids = {row.id.rsplit(".", 1)[0] for row in iterate_rows(load_ledgers())}
    assert set(tables) <= ids
    points = tables["sfnet.t6"].points
    assert ("SFNet(DF2)", 53, 77.8) in [(p.label, p.fps, p.miou) for p in points if p.kind == PAPER]
    assert sum(p.kind == OTHERS for p in points) == 13
    for table in tables.values():  # no label twice within what looks alike
        labels = [(p.label, p.kind) for p in table.points]
        assert len(labels) == len(set(labels))


@pytest.mark.parametrize("seed", range(5))
def test_labels_cover_nothing(seed):
    generator = np.random.default_rng(seed)
    bounds = (0.0, 0.0, 1000.0, 700.0)
    points = generator.uniform((40, 40), (960, 660), size=(24, 2))
    points[1] = points[0] + (3, 2)  # two that are nearly one
    points[2] = 995, 695  # in a corner
    sizes = np.stack([generator.uniform(50, 180, 24), np.full(24, 20.0)], axis=1)
    corners = place_labels(points, sizes, bounds, marker=8)
    boxes = np.concatenate([corners, corners + sizes], axis=1)
    markers = np.concatenate([points - 8, points + 8], axis=1)
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= (1000, 700)).all()
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        others = np.concatenate([np.delete(boxes, i, axis=0), markers])
        apart = (others[:, 0] >= x1) | (others[:, 2] <= x0) | (others[:, 1] >= y1) | (others[:, 3] <= y0)
        assert apart.all()
        assert np.hypot(*(np.clip(points[i], (x0, y0), (x1, y1)) - points[i])) < 130
    alone = place_labels(np.array([[500.0, 300.0]]), np.array([[80.0, 20.0]]), bounds, marker=8)
    assert alone.tolist() == [[511.0, 290.0]]  # to the right, at the same height


def test_a_chart_has_its_points_and_labels(tmp_path, monkeypatch):
    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **keys: (drawn.append(self), save(self, *args, **keys)))
    ours = Series("ours", [(20.0, 70.0, "A"), (21.0, 70.1, "B"), (200.0, 60.0, "C")], "#1f63c4")
    hollow = Series("paper", [(50.0, 65.0, "D")], "#b3423a", "s", filled=False)
    empty = Series("nobody", [], "black")
    path = tmp_path / "chart.png"
    draw_scatter([ours, hollow, empty], path, title="T", note="N", x_label="fps", y_label="mIoU")
    picture = np.asarray(Image.open(path).convert("RGB"))
    assert picture.shape == (1056, 1440, 3) and (picture == (0x1F, 0x63, 0xC4)).all(axis=2).sum() > 300
    axes = drawn[0].axes[0]
    assert [t.get_text() for t in drawn[0].legends[0].get_texts()] == ["ours", "paper"]
    assert axes.get_xscale() == "log" and axes.get_xticks().tolist() == [20, 30, 50, 70, 100, 200, 300]
    renderer = drawn[0]._get_renderer()
    for text in (t for t in axes.texts if t.get_text() in "ABCD"):
        at = {"A": (20, 70), "B": (21, 70.1), "C": (200, 60), "D": (50, 65)}[text.get_text()]
        centre, box = axes.transData.transform(at), text.get_window_extent(renderer)
        nearest = np.clip(centre, (box.x0, box.y0), (box.x1, box.y1))
        assert 5 < np.hypot(*(nearest - centre)) < 60  # beside its point, in the picture's own pixels
    with pytest.raises(ValueError, match="the chart 'T' has no points"):
        draw_scatter([empty], path, title="T", note="", x_label="", y_label="")


def test_the_command(tmp_path, monkeypatch, capsys):
    tool = str(ROOT / "tools" / "plot_speed_accuracy.py")
    monkeypatch.setattr(sys, "argv", [tool, "sfnet.t10", "--output", str(tmp_path), "--records", str(tmp_path)])
    runpy.run_path(tool, run_name="__main__")
    printed = capsys.readouterr().out
    assert "SFNet, ResNet-18     45.2   72.4" in printed and "measured here" not in printed
    assert [p.name for p in tmp_path.iterdir()] == ["sfnet_t10.png"]
    monkeypatch.setattr(sys, "argv", [tool, "--speeds", str(tmp_path / "absent.json")])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(tool, run_name="__main__")
    assert stop.value.code == 2 and "absent.json" in capsys.readouterr().err
