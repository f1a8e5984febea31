"""tools/visualize_alignment.py on networks that were never trained: files, page, messages."""

import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fapn_d2.config.loading import load_config
from fapn_d2.data import generate_shapes
from fapn_d2.engine.trainer import Trainer
from fapn_d2.visualization.alignment_page import Network, choose_records, write_alignment_report
from fapn_d2.visualization.recording import Alignment
from fapn_d2.visualization.segments import Segments
from fapn_d2.visualization.view import View
from tests.demo.test_page import Reader, assert_self_contained

ROOT = Path(__file__).resolve().parents[2]
OPTS = ["MODEL.DEVICE", "cpu", "MODEL.FPN.OUT_CHANNELS", "32", "INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "96"]


def config(name):
    return str(ROOT / "configs" / "quickstart" / f"panoptic_{name}_shapes.yaml")


def save_weights(name, path):
    cfg = load_config(config(name), OPTS)
    torch.save({"model": Trainer.build_model(cfg).state_dict()}, path)
    return str(path)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["visualize_alignment.py", *map(str, arguments)])
    runpy.run_path(str(ROOT / "tools" / "visualize_alignment.py"), run_name="__main__")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Folder with weights of both networks and two generated images."""
    folder = tmp_path_factory.mktemp("networks")
    for name in ("FPN", "FaPN"):
        save_weights(name, folder / f"{name}.pth")
    generate_shapes(folder / "data" / "shapes", splits={"train": 1, "val": 2}, size=(64, 96))
    return folder


def test_two_networks_beside_each_other(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(place / "data"))
    networks = ["--config-file", config("FaPN"), "--weights", place / "FaPN.pth"]
    networks += ["--against", config("FPN"), "--against-weights", place / "FPN.pth"]
    run(monkeypatch, *networks, "--number", 1, "--output", tmp_path, *OPTS)
    assert "index.html" in capsys.readouterr().out
    files = {p.name for p in tmp_path.iterdir()}
    pictures = {f"000001_{x}.png" for x in ("predictions", "errors", "FPN", "FaPN", "FaPN_field")}
    assert files == {*pictures, "index.html"}
    text = (tmp_path / "index.html").read_text()
    assert_self_contained(text)
    captions = [a["alt"] for a in Reader(text).all("img")]
    assert captions[:4] == ["FPN", "FaPN", "ground truth", "image"]
    assert [c.split(":")[0] for c in captions[4:7]] == ["image", "FPN", "FaPN"]
    assert captions[5].endswith(" % of pixels right") and captions[7].endswith(" % worsened (orange)")
    assert "wrong ones have the colour" in text and "blue pixels are improved" in text
    assert sum("before" in c for c in captions) == 6 and captions.count("offsets, true length") == 3
    sheet = np.asarray(Image.open(tmp_path / "000001_FaPN.png"))
    assert sheet.ndim == 3 and sheet.std() > 20  # there is something on it


def test_a_photograph_without_labels(place, real_images, tmp_path, monkeypatch):
    shutil.copy(real_images / "photographs" / "000000208901.jpg", tmp_path / "mine.jpg")
    arguments = ["--config-file", config("FaPN"), "--weights", place / "FaPN.pth", "--image", tmp_path / "mine.jpg"]
    run(monkeypatch, *arguments, "--output", tmp_path / "out", "--name", "Fa/PN 2", *OPTS)
    captions = [a["alt"] for a in Reader((tmp_path / "out" / "index.html").read_text()).all("img")]
    assert captions[:2] == ["Fa/PN 2", "image"] and "ground truth" not in captions
    assert (tmp_path / "out" / "mine_Fa_PN_2.png").is_file()
    assert not (tmp_path / "out" / "mine_errors.png").exists() and not any("right" in c for c in captions)


def test_a_detector_of_boxes_alone(place, tmp_path, monkeypatch):
    """Boxes are drawn beside the ground truth; there are no errors of pixels to draw."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(place / "data"))
    found = Segments(np.zeros((64, 96), np.int32), extent="boxes")
    found.add(None, "disc", (200, 0, 0), is_thing=True, score=0.8, box=(10, 10, 60, 50))

    class Detector:
        name, cfg = "boxes", load_config(config("FaPN"), OPTS)

        def look(self, record, *, least_score):
            maps = torch.rand(2, 3, 16, 24)
            return View(np.zeros((64, 96, 3), np.uint8), found, [Alignment(2, 4, *maps, displacement=None)])

    records = choose_records("shapes_val_panoptic_separated", files=[], number=1)
    page = write_alignment_report([Detector()], records, tmp_path).read_text()
    captions = [a["alt"] for a in Reader(page).all("img")]
    assert captions[:3] == ["boxes", "ground truth", "image"] and "Errors:" not in page
    assert {p.name for p in tmp_path.iterdir()} == {"000001_predictions.png", "000001_boxes.png", "index.html"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config-file", config("FaPN")], "FaPN has no weights: name a checkpoint"),
        (["--config-file", config("FaPN"), "--weights", "absent.pth"], "absent.pth"),
        (
            ["--config-file", config("FaPN"), "--weights", "FPN.pth"],
            "FPN.pth",  # weights of another network are refused, not drawn
        ),
    ],
)
def test_messages(place, arguments, message, monkeypatch, capsys):
    arguments = [str(place / a) if a == "FPN.pth" else a for a in arguments]
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, *arguments, *OPTS)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_images_and_networks_that_cannot_be_drawn(place):
    with pytest.raises(FileNotFoundError, match=r"image absent.jpg does not exist"):
        choose_records("shapes_val", files=["absent.jpg"], number=1)
    cfg = load_config(config("FPN"), [*OPTS, "MODEL.WEIGHTS", str(place / "FPN.pth")])
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"  # Detectron2's own pyramid
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    with pytest.raises(ValueError, match="PanopticFPN has no pyramid of fapn_d2"):
        Network.load("FPN", cfg)
    cfg.DATASETS.TEST = ()
    with pytest.raises(ValueError, match=r"DATASETS\.TEST of FPN is empty"):
        Network.load("FPN", cfg)
