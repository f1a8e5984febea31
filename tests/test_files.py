"""A file is replaced as a whole, or stays as it was."""

import json

import pytest

from fapn_d2.files import write_atomically, write_json, write_text_atomically


def test_text_and_json(tmp_path):
    write_text_atomically(tmp_path / "a.txt", "größer")
    assert (tmp_path / "a.txt").read_bytes() == "größer".encode()
    write_json(str(tmp_path / "a.json"), {"b": [1]}, indent=1)
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": [1]}
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("flush", [False, True])
def test_a_failure_leaves_the_earlier_file(tmp_path, flush):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(file):
        file.write(b"new")
        raise OSError("no space")

    with pytest.raises(OSError, match=r"cannot write .*a\.txt \(no space\); what was saved before is intact"):
        write_atomically(path, fail, flush=flush)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
