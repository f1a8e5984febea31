"""Writing label images: restartable, in several processes, and every fault named."""

import numpy as np
import pytest
from PIL import Image

from fapn_d2.data.datasets.conversion import LabelFile, in_parallel, verify_labels, write_labels, write_png
from fapn_d2.data.datasets.program import parser, run_program


def halve(file: LabelFile) -> np.ndarray:
    return np.array(Image.open(file.source)) // 2


def square(number: int) -> int:
    return number**2


@pytest.fixture
def files(tmp_path):
    made = []
    for number in range(5):
        source, image = tmp_path / f"in/{number}.png", tmp_path / f"pictures/{number}.jpg"
        for path in (source, image):
            path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 6), 2 * number, np.uint8)).save(source)
        Image.new("RGB", (6, 4)).save(image)
        made.append(LabelFile(source, tmp_path / f"out/{number}.png", image))
    return made


def verify(files, **changed):
    verify_labels(files, **({"num_classes": 4, "ignore_label": 4, "description": "checking"} | changed))


@pytest.mark.parametrize("workers", [0, 2])
def test_written_and_verified(files, workers, capsys):
    assert write_labels(files, halve, description="halving", workers=workers) == 5
    for number, file in enumerate(files):
        assert (np.array(Image.open(file.target)) == number).all()
    verify(files, workers=workers)
    assert "halving: 100%" in capsys.readouterr().err
    assert not list(files[0].target.parent.glob("*.tmp"))


def test_a_second_run_writes_what_is_missing(files):
    write_labels(files, halve, description="")
    before = {file.target: file.target.stat().st_mtime_ns for file in files}
    files[2].target.unlink()
    assert write_labels(files, halve, description="") == 1
    changed = [f for f, time in before.items() if f.stat().st_mtime_ns != time]
    assert changed == [files[2].target]
    assert write_labels(files, halve, description="") == 0


def test_a_write_that_is_cut_short_leaves_no_file(tmp_path, monkeypatch):
    def fail(self, file, **_):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        write_png(tmp_path / "a.png", np.zeros((2, 2), np.uint8))
    assert not list(tmp_path.iterdir())


def test_sources_that_are_absent_or_broken(files):
    files[1].source.unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 5 files to convert are absent \(.*1\.png\)"):
        write_labels(files, halve, description="")
    files[1].source.write_text("no image")
    with pytest.raises(ValueError, match=r"in/1\.png cannot be converted: UnidentifiedImageError"):
        write_labels(files, halve, description="")


def test_what_is_wrong_in_the_end(files):
    write_labels(files, halve, description="")
    with pytest.raises(ValueError, match=r"2 of 5 .*out/3\.png holds \[3\]; allowed are 0\.\.2; .*4\.png.*Remove them"):
        verify(files, num_classes=3, ignore_label=None)
    Image.new("RGB", (6, 5)).save(files[0].image)
    with pytest.raises(ValueError, match=r"out/0\.png is \(4, 6\), its image .*0\.jpg \(5, 6\)"):
        verify(files)
    files[3].target.write_bytes(files[3].target.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"label .*out/3\.png cannot be read"):
        verify(files[1:])
    files[3].target.unlink()
    with pytest.raises(FileNotFoundError, match=r"out/3\.png does not exist"):
        verify(files[1:])


def test_results_keep_their_order():
    assert in_parallel(square, range(7), description="", workers=2) == [0, 1, 4, 9, 16, 25, 36]
    assert in_parallel(square, [], description="") == []


def test_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    made = parser("What it does.", "mine")
    with pytest.raises(SystemExit, match=r"error: folder .*mine is absent; unpack the download there, or .* --root"):
        run_program(made, lambda root, args: "", [])
    (tmp_path / "mine").mkdir()
    run_program(made, lambda root, args: f"{root.name} by {args.workers}", ["--workers", "3"])
    assert capsys.readouterr().out == f"{tmp_path}/mine: mine by 3\n"
