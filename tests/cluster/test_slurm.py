"""Trainings under a real SLURM: submitted, stopped, requeued, resumed, finished; two nodes; a killed node."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..tools.test_train_net import CONFIG
from ..toys.training import write_camvid

TOOLS = Path(__file__).resolve().parents[2] / "tools"
FOREVER = "MAX_ITER: 100000"


class Training:
    """A toy training that a test lets end when it has seen enough."""

    def __init__(self, slurm, folder: Path, *options: str):
        self.slurm, self.folder, self.output = slurm, folder, folder / "out"
        self.config = folder / "toy.yaml"
        self.config.write_text(CONFIG.replace("MAX_ITER: 3", FOREVER) + "TEST: {EVAL_PERIOD: 0}\n")
        command = [sys.executable, "-W", "ignore", str(TOOLS / "launch_slurm.py"), "--gpus-per-node", "0"]
        command += ["--cpus-per-task", "1", "--logs", str(folder / "logs"), *options]
        command += ["--config-file", str(self.config), "OUTPUT_DIR", str(self.output), "SOLVER.CHECKPOINT_PERIOD", "5"]
        environment = slurm.environment | {
            "DETECTRON2_DATASETS": str(folder / "datasets"),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(TOOLS.parent),
        }
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        self.number = re.search(r"Submitted job (\d+)", done.stdout)[1]
        self.printed = done.stdout

    def log(self) -> str:
        return "\n".join(path.read_text() for path in sorted((self.folder / "logs").glob("*_log.out")))

    def wait(self, condition, what: str, seconds: float = 150):
        return self.slurm.wait(condition, seconds, f"{what}; the log ends with\n{self.log()[-2500:]}")

    def trains(self, starts: int) -> None:
        """Wait until start number ``starts`` of the job trains."""
        self.wait(lambda: self.log().count("Starting training from iteration") >= starts, f"start {starts}")

    def may_end(self) -> None:
        """From the next start on the training is short."""
        last = int(re.search(r"\d+", (self.output / "last_checkpoint").read_text())[0])
        self.config.write_text(self.config.read_text().replace(FOREVER, f"MAX_ITER: {last + 12}"))

    def completed(self) -> list[int]:
        """Wait for the end; the iteration from which each start began."""
        self.wait(lambda: self.slurm.job(self.number)["JobState"] == "COMPLETED", "the end")
        assert (self.output / "model_final.pth").is_file() and (self.output / "results.json").is_file()
        return [int(found) for found in re.findall(r"Starting training from iteration (\d+)", self.log())]


@pytest.fixture
def training(slurm, tmp_path):
    write_camvid(tmp_path / "datasets", images=4, void=False)
    return lambda *options: Training(slurm, tmp_path, *options)


def test_time_limit_and_killed_node(slurm, training):
    """Two nodes with gloo. SLURM's signal before the time limit, then kill -9 of a node; a new start after each."""
    job = training("--nodes", "2", "--time", "30", "--grace", "60")
    assert "squeue --jobs" in job.printed
    job.trains(1)
    job.wait(lambda: (job.output / "last_checkpoint").is_file(), "a checkpoint")
    assert json.loads((job.output / "run.json").read_text())["processes"] == 2
    slurm.call("scontrol", "update", f"JobId={job.number}", "TimeLimit=1")
    job.wait(lambda: int(slurm.job(job.number)["Restarts"]) == 1, "the requeue")
    assert "Asked to stop: saving after iteration" in job.log()
    assert "SLURM starts it again, at most 20 times" in job.log()
    slurm.call("scontrol", "update", f"JobId={job.number}", "TimeLimit=30")
    job.trains(2)
    slurm.wait(lambda: len(slurm.tasks_of("n2")) > 0, 30, "a task on n2")
    job.may_end()
    slurm.kill_node("n2")
    job.wait(lambda: int(slurm.job(job.number)["Restarts"]) == 2, "the requeue after the node died")
    slurm.start_node("n2")
    slurm.call("scontrol", "update", "nodename=n2", "state=resume", check=False)
    starts = job.completed()
    assert len(starts) == 3 and 0 == starts[0] < starts[1] <= starts[2]
