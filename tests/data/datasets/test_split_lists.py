"""Splits that are lists of names."""

import pytest

from fapn_d2.data.datasets.split_lists import load_listed, read_list


@pytest.fixture
def tree(tmp_path):
    for folder, suffix in (("images", ".jpg"), ("labels", ".png")):
        (tmp_path / folder).mkdir()
        for name in ("a", "b", "c"):
            (tmp_path / folder / f"{name}{suffix}").touch()
    (tmp_path / "train.txt").write_text("c\na\n\n")
    return tmp_path


def load(tree):
    return load_listed(tree / "train.txt", tree / "images", tree / "labels", fix="Do this.")


def test_records_of_the_list_in_its_order(tree):
    assert load(tree) == [
        {"file_name": str(tree / f"images/{n}.jpg"), "sem_seg_file_name": str(tree / f"labels/{n}.png")} for n in "ca"
    ]


def test_missing_files_are_counted_and_named(tree):
    (tree / "train.txt").write_text("a\nb\nx\ny\n")
    (tree / "labels/b.png").unlink()
    message = (
        r"2 of 4 images in .*train\.txt are not in .*images \(x, y\); "
        r"3 of 4 labels in .*train\.txt are not in .*labels \(b, x, y\)\. Do this\."
    )
    with pytest.raises(FileNotFoundError, match=message):
        load(tree)


def test_wrong_lists(tree):
    (tree / "train.txt").write_text("a\nb\na\n")
    with pytest.raises(ValueError, match=r"train\.txt holds 1 names twice \(a\)\. Do this\."):
        load(tree)
    (tree / "train.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"train\.txt is empty\. Do this\."):
        load(tree)
    with pytest.raises(FileNotFoundError, match=r"the list .*gone\.txt is absent\. Do that\."):
        read_list(tree / "gone.txt", fix="Do that.")
