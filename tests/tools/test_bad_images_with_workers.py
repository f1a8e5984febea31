"""tools/train_net.py on an image or label that cannot be used, read by loader processes: it ends, and soon."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ..toys.training import write_camvid
from .test_train_net import CONFIG, TOOL

#: Seconds; a start with two processes takes up to 30 on a busy machine.
LIMIT = 100


@pytest.fixture
def camvid(tmp_path, monkeypatch):
    """Folder of a small CamVid; the tool finds it."""
    root = write_camvid(tmp_path / "datasets", images=7, void=False)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("FAPN_DEBUG", raising=False)
    return root / "camvid"


def run(folder: Path, *words) -> tuple[int, str]:
    """(exit code, output) of a training with two loader processes, which must end and leave no process behind."""
    config = folder / "toy.yaml"
    config.write_text(CONFIG)
    command = [sys.executable, "-W", "ignore", str(TOOL), "--config-file", str(config), *map(str, words)]
    command += ["OUTPUT_DIR", str(folder / "out"), "DATALOADER.NUM_WORKERS", "2", "SOLVER.MAX_ITER", "100"]
    with open(folder / "output.txt", "w+") as output:  # a pipe would stay open as long as a child lives
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            code = None
        deadline = time.time() + 10  # Python's own helper of spawned processes ends a moment after them
        while (left := alive(process.pid)) and time.time() < deadline:
            time.sleep(0.1)
        if code is None or left:
            os.killpg(process.pid, signal.SIGKILL)
        output.seek(0)
        text = output.read()
    assert code is not None, f"no end in {LIMIT} s:\n{text}"
    assert not left, f"processes are left: {left}\n{text}"
    return code, text


def alive(group: int) -> list[str]:
    """Processes of a group that still run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, process_group = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:3]
            if int(process_group) == group and state not in "ZX":
                found.append(folder.name)
        except OSError:  # has ended meanwhile
            continue
    return found


def cut_short(camvid: Path) -> str:
    for path in camvid.glob("train/*.png"):
        path.write_bytes(path.read_bytes()[:200])
    return r"image \S+/camvid/train/\d.png cannot be read: OSError: "


def wrong_class(camvid: Path) -> str:
    for path in camvid.glob("trainannot/*.png"):
        Image.fromarray(np.full(Image.open(path).size[::-1], 77, np.uint8)).save(path)
    return r"label \S+/camvid/trainannot/\d.png holds the values 77; allowed are 0\.\.10 "


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (wrong_class, []),
        (cut_short, ["--num-gpus", "2"]),
        (cut_short, ["INPUT.MAX_BAD_IMAGES", "2"]),
    ],
)
def test_one_message_code_2_and_nothing_is_left(camvid, tmp_path, damage, words):
    reason = damage(camvid)
    if "INPUT.MAX_BAD_IMAGES" in words:
        reason = rf"\d images cannot be used, INPUT.MAX_BAD_IMAGES allows 2 of 7; .* The last: {reason}"
    code, text = run(tmp_path, *words)
    assert code == 2, text
    rank = r" \(rank \d\)" if "--num-gpus" in words else ""
    [*_, message] = [line for line in text.splitlines() if line.startswith("error")]
    assert re.match(rf"error{rank}: {reason}", message), text
    assert "Traceback" not in text and "DataLoader worker" not in text


def test_debug_shows_where_it_happened(camvid, tmp_path):
    reason = cut_short(camvid)
    code, text = run(tmp_path, "--debug")
    assert code == 1 and "Traceback" in text and "in read_image" in text
    assert re.search(rf"BadImageError: {reason}", text), text
