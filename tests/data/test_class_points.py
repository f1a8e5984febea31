"""Points of classes by hand, and the file that keeps them: read once, taken up, made anew where labels changed."""

import json
import logging
import os

import numpy as np
import pytest
from PIL import Image

from fapn_d2.data import class_points
from fapn_d2.data.class_points import find_points, points_of


def test_points_by_hand():
    labels = np.array(
        [
            [7, 7, 7, 0, 0],
            [7, 2, 7, 0, 0],
            [7, 7, 7, 0, 1],
        ],
        np.uint8,
    )
    # class 7 rings (1, 1), which is of class 2: the nearest of its pixels, the first of four
    assert points_of(labels, tile=10) == [[0, 1, 3], [1, 2, 4], [2, 1, 1], [7, 0, 1]]
    assert points_of(labels, tile=3) == [[2, 1, 1], [7, 0, 1], [0, 1, 3], [1, 2, 4]]
    # tiles of 2: four full ones, then the right column and the lower row cut by the border
    assert [p for p in points_of(labels, tile=2) if p[0] == 0] == [[0, 0, 3], [0, 0, 4], [0, 2, 3]]


def test_points_are_of_their_class_and_tile():
    labels = np.random.default_rng(0).integers(0, 300, (50, 70)).astype(np.uint16)
    found = points_of(labels, tile=16)
    assert all(labels[row, column] == value for value, row, column in found)
    tiles = {(value, row // 16, column // 16) for value, row, column in found}
    expected = {(v, y // 16, x // 16) for (y, x), v in np.ndenumerate(labels)}
    assert tiles == expected and len(found) == len(expected)


@pytest.fixture
def records(tmp_path):
    """Five labels of two classes."""
    found = []
    for n in range(5):
        path = tmp_path / f"{n}.png"
        labels = np.zeros((8, 8), np.uint8)
        labels[n, n] = 1
        Image.fromarray(labels).save(path)
        found.append({"file_name": f"{n}.jpg", "sem_seg_file_name": str(path)})
    return found


@pytest.fixture
def read(monkeypatch):
    """Names of the labels that were read."""
    seen = []
    original = class_points.read_labels
    monkeypatch.setattr(class_points, "read_labels", lambda p: seen.append(os.path.basename(p)) or original(p))
    return seen


def ones(points):
    return [[row, column] for label in points for value, row, column in label if value == 1]


@pytest.mark.parametrize("workers", [0, 2])
def test_found_once(records, read, tmp_path, workers, capsys):
    first = find_points(records, tile=1024, folder=tmp_path / "out", num_workers=workers)
    assert "5/5 [" in capsys.readouterr().err
    assert ones(first) == [[n, n] for n in range(5)]
    read.clear()
    assert find_points(records[::-1], tile=1024, folder=tmp_path / "out") == first[::-1]
    assert not read
    assert find_points(records, tile=4, folder=tmp_path / "out") != first  # in a file of its own
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"class_points_4.jsonl", "class_points_1024.jsonl"}


def test_changed_labels_are_read_again(records, read, tmp_path):
    find_points(records, tile=8, folder=tmp_path)
    labels = np.zeros((8, 8), np.uint8)
    labels[7, 0] = 1
    Image.fromarray(labels).save(records[2]["sem_seg_file_name"])
    read.clear()
    for _ in range(2):
        assert ones(find_points(records, tile=8, folder=tmp_path)) == [[0, 0], [1, 1], [7, 0], [3, 3], [4, 4]]
    assert read == ["2.png"]


def test_an_interrupted_search_goes_on(records, read, tmp_path):
    find_points(records, tile=8, folder=tmp_path)
    file = tmp_path / "class_points_8.jsonl"
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:3]) + lines[3][:20])  # killed while it wrote the third label
    read.clear()
    assert ones(find_points(records, tile=8, folder=tmp_path)) == [[n, n] for n in range(5)]
    assert read == ["2.png", "3.png", "4.png"]
    assert len([line for line in file.read_text().splitlines() if line]) == 6


def test_a_search_that_fails_keeps_what_it_found(records, read, tmp_path, caplog):
    (tmp_path / "3.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"label .*3\.png cannot be read"):
        find_points(records, tile=8, folder=tmp_path)
    assert len((tmp_path / "class_points_8.jsonl").read_text().split("\n")) == 5
    read.clear()
    with caplog.at_level(logging.WARNING):
        points = find_points(records, tile=8, folder=tmp_path, skip_bad=True)
    assert ones(points) == [[0, 0], [1, 1], [2, 2], [4, 4]] and points[3] == []
    assert read == ["3.png", "4.png"] and "A label is skipped in the search for classes: label" in caplog.text
    os.remove(tmp_path / "3.png")
    with pytest.raises(FileNotFoundError, match=r"label .*3\.png does not exist"):
        find_points(records, tile=8, folder=tmp_path)


def test_two_searches_at_once_leave_whole_lines(records, tmp_path):
    """As two runs with one folder do: the second finds nothing yet and adds what the first adds."""
    find_points(records, tile=8, folder=tmp_path / "a")
    find_points(records, tile=8, folder=tmp_path / "b")
    both = b"".join((tmp_path / name / "class_points_8.jsonl").read_bytes() for name in "ab")
    (tmp_path / "class_points_8.jsonl").write_bytes(both)
    assert ones(find_points(records, tile=8, folder=tmp_path)) == [[n, n] for n in range(5)]
    assert len({json.loads(line)[0] for line in both.decode().splitlines() if line}) == 5


def test_errors(records, tmp_path):
    with pytest.raises(ValueError, match=r"CLASS_UNIFORM\.TILE must be at least one pixel, got 0"):
        find_points(records, tile=0, folder=tmp_path)
    message = r'"ClassUniformSampler" needs semantic labels, of which the record of 9\.jpg has none'
    with pytest.raises(ValueError, match=message):
        find_points([*records, {"file_name": "9.jpg"}], tile=8, folder=tmp_path)
