import pytest

from fapn_d2.data.datasets.image_label_pairs import pair_files, stems
from fapn_d2.messages import some


def _touch(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_pairs_are_sorted_by_stem(tmp_path):
    images = _touch(tmp_path / "i", "b.png", "a.jpeg")
    labels = _touch(tmp_path / "l", "a.png", "b.png")
    assert pair_files(images, labels, fix="") == [
        (images / "a.jpeg", labels / "a.png"),
        (images / "b.png", labels / "b.png"),
    ]


def test_suffixes_longer_than_an_extension(tmp_path):
    images = _touch(tmp_path / "i", "x_left.png")
    labels = _touch(tmp_path / "l", "x_ids.png", "x_color.png")
    pairs = pair_files(images, labels, fix="", image_suffixes=("_left.png",), label_suffixes=("_ids.png",))
    assert pairs == [(images / "x_left.png", labels / "x_ids.png")]


def test_nothing_in_common(tmp_path):
    images, labels = _touch(tmp_path / "i", "a.jpg"), _touch(tmp_path / "l", "a_label.png")
    with pytest.raises(FileNotFoundError, match=r"no image in .* images are named a, labels a_label. Do this."):
        pair_files(images, labels, fix="Do this.")


def test_empty_folder_and_double_stem(tmp_path):
    folder = _touch(tmp_path / "i", "readme.txt")
    with pytest.raises(FileNotFoundError, match=r"holds no images \(.png, .jpg, .jpeg\). Do this."):
        stems(folder, (".png", ".jpg", ".jpeg"), fix="Do this.", what="images")
    _touch(folder, "a.png", "a.jpg")
    with pytest.raises(ValueError, match=r"holds both a\.(png|jpg) and a\.(png|jpg); keep one"):
        stems(folder, (".png", ".jpg"), fix="")


def test_some_names_the_first_few():
    assert some(["c", "a", "b"]) == "a, b, c"
    assert some(["d", "c", "a", "b"]) == "a, b, c and 1 more"
