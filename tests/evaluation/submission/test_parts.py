"""Folders of predictions: interrupted, continued, damaged, and of another run."""

import io
import json
import zipfile

import pytest

from fapn_d2.evaluation.submission.archive import Layout, in_words, write_archive
from fapn_d2.evaluation.submission.json_stream import array_entries
from fapn_d2.evaluation.submission.parts import PartsFolder
from fapn_d2.evaluation.submission.writer import Limits, Part

MANIFEST = {"task": "t", "dataset": "d", "images": "i", "config": "c", "weights": "w", "limits": {}, "source": ""}


def part(number: int) -> Part:
    return Part(str(number), ({"n": number, "text": "a\nb"},), ((f"{number}.png", bytes([number, 10, 13])), ("e", b"")))


@pytest.fixture
def folder(tmp_path):
    """Parts 0, 1, 2 by rank 0 and 3, 4 by rank 1."""
    folder = PartsFolder(tmp_path / "parts")
    folder.begin(MANIFEST)
    for rank, numbers in ((0, (0, 1, 2)), (1, (3, 4))):
        with folder.appending(rank) as file:
            for number in numbers:
                file.add(part(number))
    return folder


def test_parts_of_all_processes_in_the_order_of_the_images(folder):
    order = [4, 0, 3, 1, 2]
    parts = folder.parts(map(str, order))
    assert len(parts) == 5
    assert list(parts) == list(parts) == [part(number) for number in order]


@pytest.mark.parametrize("lost", [1, 3, 20, 60])
def test_cut_short(folder, lost):
    """What is lost at the end of a shard is predicted again, by a new one."""
    shard = sorted(folder.folder.glob("*.shard"))[0]
    content = shard.read_bytes()
    shard.write_bytes(content[:-lost])
    assert set(folder.index()) == {"0", "1", "3", "4"}
    with pytest.raises(ValueError, match=r"1 of 5 images have no prediction in .* \(2\); call the command again"):
        folder.parts("01234")
    with folder.appending(0) as file:
        file.add(part(2))
    assert sorted(path.name for path in folder.folder.glob("*.shard")) == [
        "000-00000.shard",
        "000-00001.shard",
        "001-00000.shard",
    ]
    assert list(folder.parts("01234")) == [part(number) for number in range(5)]


def test_damaged(folder):
    shard = sorted(folder.folder.glob("*.shard"))[0]
    content = bytearray(shard.read_bytes())
    content[content.index(b"text") + 1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=r"000-00000\.shard is damaged at image 0: remove it and continue"):
        list(folder.parts("01234"))


def test_another_run_is_refused(folder):
    folder.begin(MANIFEST)
    assert len(folder.index()) == 5
    with pytest.raises(ValueError, match=r"holds predictions of an earlier run, from which the weights differs\. Name"):
        folder.begin({**MANIFEST, "weights": "other"})
    with pytest.raises(ValueError, match=r"from which the list of images, TEST\.SUBMISSION differ"):
        folder.begin({**MANIFEST, "limits": {"score_threshold": 0.1}, "images": "j"})
    folder.begin({**MANIFEST, "weights": "other"}, restart=True)
    assert folder.index() == {} and folder.manifest["weights"] == "other"
    (folder.folder / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json is damaged .* remove"):
        folder.begin(MANIFEST)


def test_numbers_must_be_finite(folder):
    with folder.appending() as file, pytest.raises(ValueError, match="Out of range float"):
        file.add(Part("9", ({"score": float("nan")},)))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archive_holds_the_listed_files_only(folder, tmp_path):
    layout = Layout("a.zip", json="a.json", array=False, folder="a/")
    size = write_archive(tmp_path / "a.zip", layout, folder.parts("34"), has_files=True)
    assert size == (tmp_path / "a.zip").stat().st_size
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["a/3.png", "a/e", "a/4.png", "a/e", "a.json"]
        assert archive.read("a/4.png") == bytes([4, 10, 13])
        assert json.loads(archive.read("a.json")) == {"annotations": [{"n": n, "text": "a\nb"} for n in (3, 4)]}
    write_archive(tmp_path / "b.zip", Layout("b.zip", json="b.json"), folder.parts("3"), has_files=False)
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        assert archive.namelist() == ["b.json"] and json.loads(archive.read("b.json")) == [{"n": 3, "text": "a\nb"}]


def test_sizes_in_words():
    assert [in_words(n) for n in (7, 1234, 123456, 3.14e6, 2.5e9)] == ["7 B", "1.2 kB", "123 kB", "3.1 MB", "2.5 GB"]


# ---- JSON entry by entry ----


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1 << 20])
def test_arrays_in_chunks(chunk, monkeypatch):
    from fapn_d2.evaluation.submission import json_stream

    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    for content in ([], [1], [{"a": [1, 2.5e-3, "ü]\n,"]}, {"b": None}, 123456, "x", []], [[[]]] * 50):
        for text in (json.dumps(content), json.dumps(content, indent=2, ensure_ascii=False) + " \n"):
            assert list(array_entries(io.BytesIO(text.encode()))) == content


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", TypeError, "it begins with ''"),
        ('{"a": 1}', TypeError, r"it begins with '\{', not with the \[ of an array"),
        ("[1, 2", ValueError, "the file ends early"),
        ('[{"a": 1}, {"a"', ValueError, "entry 1 is not JSON or is cut short"),
        ("[1 2]", ValueError, "after entry 0 there is '2'"),
        ("[1] 2", ValueError, "after the array there is '2'"),
    ],
)
def test_broken_arrays(text, error, message):
    with pytest.raises(error, match=message):
        list(array_entries(io.BytesIO(text.encode())))


# ---- limits ----


def test_limits():
    limits = Limits(max_per_image=3, score_threshold=0.2)
    assert limits.kept([0.1, 0.5, 0.9, 0.2, 0.5, float("nan")]) == [2, 1, 4]
    assert Limits().kept([]) == []
    assert limits.score(0.123456789) == 0.12346 and limits.score(1.23456789e-7) == 1.2346e-7


def test_limits_from_config():
    from fapn_d2.config.loading import load_config

    assert Limits.from_config(load_config()) == Limits()
    cfg = load_config("", ["TEST.SUBMISSION.SCORE_THRESH", "0.5", "TEST.SUBMISSION.MAX_PER_IMAGE", "0"])
    with pytest.raises(ValueError, match=r"TEST\.SUBMISSION\.MAX_PER_IMAGE is 0; it must be at least 1"):
        Limits.from_config(cfg)
