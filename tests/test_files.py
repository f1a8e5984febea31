"""Files are whole or not there, and JSON is JSON."""

import json

import numpy as np
import pytest

from fapn_d2.files import write_atomically, write_json


def test_json_has_no_nan(tmp_path):
    content = {
        "AP": float("nan"),
        "a": [1, np.float32(0.5), np.int64(3), -np.inf],
        "b": {"t": "x", "n": None, "f": True},
    }
    write_json(str(tmp_path / "a.json"), content)

    def refuse(name):
        raise AssertionError(name)

    read = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert read == {"AP": None, "a": [1, 0.5, 3, None], "b": {"t": "x", "n": None, "f": True}}
    assert [type(value) for value in read["a"][:2]] == [int, float]


def test_a_failure_leaves_the_old_content(tmp_path):
    path = tmp_path / "a"
    write_atomically(str(path), lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"new")
        raise KeyError("stop")

    with pytest.raises(KeyError):
        write_atomically(str(path), fail)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["a"]
