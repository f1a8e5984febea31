"""tools/train_net.py in two processes: Ctrl-C, a killed rank, a stopped rank and a killed launcher."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ..toys.training import write_camvid
from .test_bad_images_with_workers import alive
from .test_train_net import CONFIG, TOOL


class Run:
    """A training in a process group of its own. Its output goes to a file."""

    def __init__(self, folder: Path, *words):
        folder.mkdir()
        self.out, self.log = folder / "out", folder / "output.txt"
        (folder / "toy.yaml").write_text(CONFIG)
        command = [sys.executable, "-W", "ignore", TOOL, "--config-file", folder / "toy.yaml", *words]
        command += ["OUTPUT_DIR", self.out, "SOLVER.MAX_ITER", 100000, "DATALOADER.NUM_WORKERS", 1]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                list(map(str, command)), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def wait_until_it_trains(self) -> None:
        deadline = time.time() + 200
        metrics = self.out / "metrics.json"
        while not metrics.exists() or not metrics.stat().st_size:
            assert self.process.poll() is None and time.time() < deadline, self.log.read_text()
            time.sleep(0.05)

    def ranks(self) -> list[int]:
        """Process numbers of the ranks, in their order."""
        found = []
        for number in map(int, alive(self.process.pid)):
            with contextlib.suppress(OSError):
                parent = int(Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[1])
                if parent == self.process.pid and b"spawn_main" in Path(f"/proc/{number}/cmdline").read_bytes():
                    found.append(number)
        return sorted(found)

    def ends(self, within: float) -> int:
        """The exit code; no process is left."""
        deadline = time.time() + within
        code = self.process.wait(within)
        while (left := alive(self.process.pid)) and time.time() < deadline:
            time.sleep(0.1)
        if left:
            os.killpg(self.process.pid, signal.SIGKILL)
        assert not left, f"{left} are left after {within} s"
        return code


@pytest.fixture
def environment(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(write_camvid(tmp_path / "datasets", images=7, void=False)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("FAPN_DEBUG", raising=False)


@pytest.mark.slow
def test_two_processes(environment, tmp_path):
    # Ctrl-C in a terminal goes to the whole group, loader processes included; `kill -INT` to the launcher alone.
    stopped, killed = Run(tmp_path / "stopped", "--num-gpus", 2), Run(tmp_path / "killed", "--num-gpus", 2)
    stopped.wait_until_it_trains()
    os.killpg(stopped.process.pid, signal.SIGINT)
    assert stopped.ends(60) == 75, stopped.log.read_text()
    text = stopped.log.read_text()
    assert "Traceback" not in text
    [done] = re.findall(r"saving after iteration (\d+)", text)
    assert (stopped.out / "stopped.txt").read_text() == f"stopped, saved at iteration {done}; continue with --resume\n"
    assert torch.load(stopped.out / (stopped.out / "last_checkpoint").read_text())["iteration"] == int(done)

    killed.wait_until_it_trains()
    rank_1 = killed.ranks()[1]
    os.kill(rank_1, signal.SIGKILL)
    assert killed.ends(60) == 137
    expected = f"error: rank 1 (process {rank_1}) was ended by SIGKILL. All other ranks are ended."
    assert expected in killed.log.read_text()


@pytest.mark.slow
def test_nobody_outlives_the_launcher(environment, tmp_path):
    run = Run(tmp_path / "run", "--num-gpus", 2)
    time.sleep(1)
    early = Run(tmp_path / "early")
    time.sleep(0.5)
    early.process.terminate()  # in its imports
    assert early.ends(30) == 75
    run.wait_until_it_trains()
    run.process.kill()
    assert run.ends(10) == -9


@pytest.mark.slow
def test_a_stopped_rank_is_named(environment, tmp_path):
    run = Run(tmp_path / "run", "--num-gpus", 2, "DISTRIBUTED.TIMEOUT", 0.1)
    run.wait_until_it_trains()
    rank_1 = run.ranks()[1]
    os.kill(rank_1, signal.SIGSTOP)
    assert run.ends(60) == 1
    text = run.log.read_text()
    assert "error: rank 0 waited too long for the others (DISTRIBUTED.TIMEOUT):" in text
    assert f"rank 1 (process {rank_1}) is stopped (SIGSTOP)" in text
