"""tools/predict.py on photographs of several kinds: results, pictures, the page, and files that cannot be read."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fapn_d2.meta_arch.build import build_model
from fapn_d2.visualization.prediction_page import unique_names

from ..toys.detectors import toy_detector_cfg
from ..toys.training import toy_config

TOOL = Path(__file__).resolve().parents[2] / "tools" / "predict.py"


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("predict_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def save_network(folder, cfg):
    folder.mkdir()
    torch.save({"model": build_model(cfg).state_dict()}, folder / "model_final.pth")
    (folder / "config.yaml").write_text(cfg.dump())
    return str(folder / "model_final.pth")


@pytest.fixture
def segmentor(tmp_path):
    return save_network(tmp_path / "segmentor", toy_config(tmp_path / "segmentor"))


@pytest.fixture
def photographs(tmp_path):
    """Files of several modes and sizes, as people have them."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "colour.jpg")
    Image.fromarray(pixels).convert("CMYK").save(folder / "print.jpg")
    Image.fromarray(pixels[..., 0]).save(folder / "gray.png")
    Image.fromarray(pixels).quantize(16).save(folder / "palette.png")
    Image.fromarray(pixels[:30]).save(folder / "colour.png")
    return folder


def test_a_folder_of_photographs(main, segmentor, photographs, tmp_path, capsys):
    main(["--weights", segmentor, "--input", str(photographs), "--output", str(tmp_path / "out"), "--batch", "3"])
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [Path(i["file_name"]).name for i in content["images"]] == [
        *("colour.jpg", "colour.png", "gray.png", "palette.png", "print.jpg")
    ]
    names = [i["picture"] for i in content["images"]]
    assert names == ["colour.png", "colour-2.png", "gray.png", "palette.png", "print.png"]
    for image in content["images"]:
        size = (image["width"], image["height"])
        assert Image.open(image["file_name"]).size == size
        assert Image.open(tmp_path / "out" / image["picture"]).size == size
        labels = np.asarray(Image.open(tmp_path / "out" / image["labels"]))
        assert labels.shape == size[::-1] and labels.max() < 11
    assert "<img" in (tmp_path / "out" / "index.html").read_text()
    printed = capsys.readouterr().out
    assert "5 images in " in printed and "ms per image in the network" in printed


def test_boxes_of_a_detector(main, photographs, tmp_path):
    cfg = toy_detector_cfg("DATASETS.TEST", ("coco_2017_val",), "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    weights = save_network(tmp_path / "detector", cfg)
    out = tmp_path / "out"
    main(["--weights", weights, "--input", str(photographs / "colour.jpg"), "--output", str(out), "--score", "0"])
    (image,) = json.loads((out / "predictions.json").read_text())["images"]
    assert image["objects"] and all(0 <= o["score"] <= 1 and len(o["bbox"]) == 4 for o in image["objects"])
    assert (
        image["objects"][0]["category"]
        == ["person", "bicycle", "car", "motorcycle", "airplane"][image["objects"][0]["category_id"]]
    )
    drawn = np.asarray(Image.open(out / image["picture"]).convert("RGB")).astype(int)
    original = np.asarray(Image.open(photographs / "colour.jpg")).astype(int)
    assert (abs(drawn - original).max(-1) > 30).any()


def test_broken_files_are_named_and_the_others_predicted(main, segmentor, photographs, tmp_path, capsys):
    (photographs / "text.jpg").write_text("not an image")
    cut = (photographs / "colour.jpg").read_bytes()
    (photographs / "cut.jpg").write_bytes(cut[: len(cut) // 2])
    with pytest.raises(SystemExit) as end:
        main(["--weights", segmentor, "--input", str(photographs), "--output", str(tmp_path / "o"), "--no-pictures"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "2 of 7 images were left out:" in said and "text.jpg" in said and "cut.jpg" in said
    content = json.loads((tmp_path / "o" / "predictions.json").read_text())
    assert len(content["images"]) == 5 and not (tmp_path / "o" / "index.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "absent.jpg"], "image absent.jpg does not exist"),
        (["--input", str(TOOL)], "there is no network: name a config"),
        (["--input", str(TOOL), "--weights", "absent.pth"], "absent.pth has no config.yaml in its folder"),
        (["--input", str(TOOL), "--batch", "0"], "--batch 0: a batch has at least one image"),
    ],
)
def test_errors(main, arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_names_are_unique():
    assert unique_names([Path("a/x.jpg"), Path("b/x.png"), Path("x-2.jpg"), Path("c/x.gif")]) == [
        *("x", "x-2", "x-2-2", "x-3")
    ]
