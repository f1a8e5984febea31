"""Where windows lie, by hand; what of TEST.SEM_SEG is refused."""

import pytest

from fapn_d2.config.loading import load_config
from fapn_d2.inference.semantic import check_inference
from fapn_d2.inference.views import Views, Windows


def test_windows_by_hand():
    windows = Windows((864, 864), 0.667)
    assert windows.starts(1024, 864) == [0, 160]
    assert windows.starts(2048, 864) == [0, 576, 1152, 1184]  # the last is moved into the image
    assert windows.starts(864, 864) == [0]
    assert windows.starts(864 + 576, 864) == [0, 576]
    assert Windows((3, 3), 0.01).starts(6, 3) == [0, 1, 2, 3]
    assert windows.at(2.0) == (864, 864)
    grows = Windows((832, 416), grows=True)
    assert (grows.at(0.5), grows.at(1.5)) == ((832, 416), (1248, 624))


def test_plain_is_what_shows_an_image_once():
    assert Views().plain and Views(average="probabilities", batch=1).plain
    assert not Views(flip=True).plain and not Views(scales=(0.5,)).plain and not Views(scales=(1.0, 1.0)).plain
    assert not Views(windows=Windows((9, 9))).plain


def test_the_keys():
    options = ("MODE", "slide", "CROP_SIZE", (5, 7), "STRIDE", 0.5, "CROP_GROWS", True, "SCALES", [1, 2], "FLIP", True)
    options += ("AVERAGE", "probabilities", "BATCH", 3, "ACCUMULATE", "cpu")
    semantic = ["MODEL.META_ARCHITECTURE", "SemanticSegmentor"]
    cfg = load_config("", semantic + [f"TEST.SEM_SEG.{part}" if n % 2 == 0 else part for n, part in enumerate(options)])
    assert check_inference(cfg) == Views(
        windows=Windows((5, 7), 0.5, grows=True),
        scales=(1, 2),
        flip=True,
        average="probabilities",
        batch=3,
        accumulate="cpu",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("MODE", "sliding"), r'TEST.SEM_SEG.MODE is "sliding"; allowed are "whole" and "slide"'),
        (("CROP_SIZE", "(0, 5)"), r"TEST.SEM_SEG.CROP_SIZE must be \(H, W\) in pixels, got \(0, 5\)"),
        (("STRIDE", "1.5"), r"TEST.SEM_SEG.STRIDE must be above 0 and at most 1 \(a window\), got 1.5"),
        (("SCALES", "[1.0, -1.0]"), r"TEST.SEM_SEG.SCALES must be factors above 0, got \[1.0, -1.0\]"),
        (("SCALES", "[]"), r"TEST.SEM_SEG.SCALES must be factors above 0"),
        (("AVERAGE", "votes"), r'TEST.SEM_SEG.AVERAGE is "votes"; allowed are "logits" and "probabilities"'),
        (("BATCH", "0"), r"TEST.SEM_SEG.BATCH must be at least 1, got 0"),
        (
            ("ACCUMULATE", "disk"),
            r'TEST.SEM_SEG.ACCUMULATE is "disk", which is not a device of this machine; allowed are "cpu"',
        ),
    ],
)
def test_errors_name_the_key(options, message):
    semantic = ["MODEL.META_ARCHITECTURE", "SemanticSegmentor"]
    cfg = load_config("", semantic + [f"TEST.SEM_SEG.{options[0]}", options[1]])
    with pytest.raises(ValueError, match=message):
        check_inference(cfg)
