import pickle
import re

import numpy as np
import pytest
from PIL import Image

from fapn_d2.data.reading import BadImageError, check_labels, read_image, read_labels


def test_image_in_either_channel_order(tmp_path):
    path = str(tmp_path / "a.png")
    Image.new("RGB", (3, 2), (10, 20, 30)).save(path)
    assert read_image(path, "BGR").shape == (2, 3, 3)
    assert read_image(path, "BGR")[0, 0].tolist() == [30, 20, 10]
    assert read_image(path, "RGB")[0, 0].tolist() == [10, 20, 30]


def test_photographs(real_images):
    """Colours as Pillow decodes them."""
    sizes = set()
    for path in sorted((real_images / "photographs").iterdir()):
        rgb = read_image(str(path), "RGB")
        assert (rgb == np.asarray(Image.open(path))).all()
        assert (read_image(str(path), "BGR") == rgb[..., ::-1]).all()
        sizes.add(rgb.shape)
    assert sizes == {(427, 640, 3), (480, 640, 3), (346, 500, 3), (375, 500, 3)}


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_broken_files_are_named(tmp_path, suffix):
    whole = tmp_path / f"whole.{suffix}"
    noise = np.random.RandomState(0).randint(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(whole)
    truncated = tmp_path / f"truncated.{suffix}"
    truncated.write_bytes(whole.read_bytes()[:2000])
    text = tmp_path / f"text.{suffix}"
    text.write_text("404 not found")
    (tmp_path / f"empty.{suffix}").touch()
    for name in ("truncated", "text", "empty"):
        path = str(tmp_path / f"{name}.{suffix}")
        with pytest.raises(BadImageError, match=rf"image {re.escape(path)} cannot be read"):
            read_image(path, "BGR")
        with pytest.raises((BadImageError, ValueError), match=f"label {re.escape(path)}"):
            read_labels(path)
    with pytest.raises(FileNotFoundError, match=r"image .*none.png does not exist"):
        read_image(str(tmp_path / "none.png"), "BGR")
    with pytest.raises(FileNotFoundError, match=r"label .*none.png does not exist"):
        read_labels(str(tmp_path / "none.png"))


def test_the_error_survives_pickling():
    error = pickle.loads(pickle.dumps(BadImageError("image a.jpg cannot be read")))
    assert isinstance(error, BadImageError) and str(error) == "image a.jpg cannot be read"


@pytest.mark.parametrize("dtype,mode", [(np.uint8, "L"), (np.uint16, "I;16"), (np.int32, "I")])
def test_labels_come_as_stored(tmp_path, dtype, mode):
    labels = np.array([[0, 1, 2], [200, 11, 255]], dtype)
    if dtype != np.uint8:
        labels[0, 0] = 1000
    image = Image.fromarray(labels)
    assert image.mode == mode
    path = tmp_path / ("a.tif" if mode == "I" else "a.png")
    image.save(path)
    assert (read_labels(str(path)) == labels).all()


def test_palette_labels_are_indices_not_colours(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), mode=None).convert("P")
    image.putdata([0, 1, 2, 1])
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    image.save(tmp_path / "a.png")
    assert read_labels(str(tmp_path / "a.png")).tolist() == [[0, 1], [2, 1]]


def test_colour_labels_are_refused(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"label .*a.png is an image of mode RGB; allowed are single-channel"):
        read_labels(str(tmp_path / "a.png"))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_class_numbers_out_of_range(dtype):
    good = np.array([[0, 10, 255]], dtype)
    check_labels(good, num_classes=11, ignore_value=255, path="a.png")
    with pytest.raises(ValueError, match=r"label a.png holds the values 11, 34; allowed are 0..10 .*NUM_CLASSES = 11"):
        check_labels(np.array([[0, 34, 11, 11]], dtype), num_classes=11, ignore_value=255, path="a.png")
    many = np.arange(30, dtype=dtype)[None]
    with pytest.raises(ValueError, match=r"values 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, \.\.\.;"):
        check_labels(many, num_classes=5, ignore_value=255, path="a.png")


def test_negative_class_numbers_are_out_of_range():
    with pytest.raises(ValueError, match=r"holds the values -1; allowed"):
        check_labels(np.array([[-1, 0]], np.int32), num_classes=2, ignore_value=255, path="a.png")
    check_labels(np.array([[-1, 0]], np.int32), num_classes=2, ignore_value=-1, path="a.png")
