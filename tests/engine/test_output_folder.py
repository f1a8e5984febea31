"""OUTPUT_DIR that is full, a file or in use; the best checkpoint; the early end."""

import json
import multiprocessing
import os
import subprocess
import time
from pathlib import Path

import pytest
import torch
from detectron2.engine import HookBase

from fapn_d2.engine import Trainer, folder_lock
from fapn_d2.engine.folder_lock import LOCK, hold
from fapn_d2.engine.setup import check_output_folder

from ..toys.training import toy_config


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    try:
        mounted = subprocess.run(mounting, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", "-l", folder])


class At(HookBase):
    def __init__(self, iteration: int, action):
        self.iteration, self.action = iteration, action

    def before_step(self):
        if self.trainer.iter == self.iteration:
            self.action()


def fill(folder: Path) -> None:
    with open(folder / "fill", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard writes in a thread
def test_a_full_disk(camvid, small_disk, caplog):
    out = small_disk / "out"
    words = ("DATASETS.TEST", "()", "SOLVER.MAX_ITER", "70", "SOLVER.CHECKPOINT_PERIOD", "5")

    def trainer(*hooks):
        trainer = Trainer(toy_config(out, *words))
        trainer.resume_or_load(resume=True)
        trainer.register_hooks(list(hooks))
        return trainer

    # Metrics are written after the iterations 19, 39, 59; checkpoints are not, in this part.
    words = (*words[:-1], "65")
    trainer(At(10, lambda: fill(small_disk)), At(62, lambda: (small_disk / "fill").unlink())).train()
    assert caplog.text.count("JSONWriter cannot write ([Errno 28] No space left on device); training goes on") == 1
    assert torch.load(out / "model_final.pth")["iteration"] == 69

    words = ("DATASETS.TEST", "()", "SOLVER.MAX_ITER", "90", "SOLVER.CHECKPOINT_PERIOD", "5")
    with pytest.raises(OSError, match=r"cannot write .*/model_0000079.pth \(.*\); what was saved before is intact"):
        trainer(At(77, lambda: fill(small_disk))).train()
    with pytest.raises(
        ValueError, match=r"OUTPUT_DIR .* cannot be used: .*No space left on device.* folder with space"
    ):
        check_output_folder(str(out))
    (small_disk / "fill").unlink()
    rest = trainer()
    assert rest.start_iter == 75
    check_output_folder(str(out))


def test_what_is_not_a_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"OUTPUT_DIR is empty; set it to a folder"):
        check_output_folder("")
    with pytest.raises(ValueError, match=r"OUTPUT_DIR .*/file is a file; set it to a folder"):
        check_output_folder(str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"OUTPUT_DIR /proc/none cannot be used: "):
        check_output_folder("/proc/none")


def test_one_folder_has_one_run(tmp_path, monkeypatch):
    def live():
        hold(str(tmp_path))
        (tmp_path / "ready").touch()
        time.sleep(60)

    child = multiprocessing.get_context("fork").Process(target=live)
    child.start()
    while not (tmp_path / "ready").exists():
        time.sleep(0.02)
    with pytest.raises(ValueError, match=rf"in use by process {child.pid} on \S+ since 2\d\d\d-.*; wait for its end"):
        hold(str(tmp_path))
    child.kill()
    child.join()
    monkeypatch.setattr(folder_lock, "_held", set())
    hold(str(tmp_path))  # the holder is dead
    lock = tmp_path / LOCK
    assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("run")] == [LOCK]

    other = json.loads(lock.read_text()) | {"host": "elsewhere", "job": "17"}
    lock.write_text(json.dumps(other))
    folder_lock._held.clear()
    with pytest.raises(ValueError, match=r"on elsewhere since"):
        hold(str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    hold(str(tmp_path))  # the same job, started again on another machine
    monkeypatch.delenv("SLURM_JOB_ID")
    lock.write_text(json.dumps(other))
    os.utime(lock, (time.time() - 130,) * 2)
    folder_lock._held.clear()
    hold(str(tmp_path))  # no sign of life for more than two minutes
    lock.write_text("damaged")
    folder_lock._held.clear()
    hold(str(tmp_path))


def test_the_best_checkpoint_and_the_early_end(camvid, tmp_path, monkeypatch):
    scores = iter([30.0, 50.0, float("nan"), 40.0, 45.0, 60.0])
    monkeypatch.setattr(Trainer, "test", classmethod(lambda *_: {"sem_seg": {"mIoU": next(scores)}}))
    words = ("TEST.EVAL_PERIOD", "1", "SOLVER.EARLY_STOP", "3", "TEST.BEST_METRIC", "sem_seg/mIoU")
    trainer = Trainer(toy_config(tmp_path, *words))
    trainer.resume_or_load(resume=False)
    assert trainer.train() == {"sem_seg": {"mIoU": 45.0}}
    assert torch.load(tmp_path / "model_best.pth")["iteration"] == 1  # 50
    final = torch.load(tmp_path / "model_final.pth")
    assert final["iteration"] == 4  # after 45; the sixth is not reached
    assert final["trainer"]["hooks"]["BestCheckpoint"] == {"best": 50.0, "best_iteration": 1, "worse": 3}
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"

    scores = iter([3.0, 2.0, 1.0])
    words = ("TEST.EVAL_PERIOD", "2", "TEST.BEST_MODE", "min", "TEST.BEST_METRIC", "sem_seg/mIoU")
    trainer = Trainer(toy_config(tmp_path / "min", *words))
    trainer.train()
    assert torch.load(tmp_path / "min" / "model_best.pth")["iteration"] == 5  # also the last evaluation counts


def test_mistakes_in_the_keys_of_the_best_checkpoint(camvid, tmp_path):
    with pytest.raises(ValueError, match=r"SOLVER.EARLY_STOP needs the name of a score in TEST.BEST_METRIC"):
        Trainer(toy_config(tmp_path, "SOLVER.EARLY_STOP", "3"))
    with pytest.raises(ValueError, match=r'TEST.BEST_MODE is "most"; allowed are "max" and "min"'):
        Trainer(toy_config(tmp_path, "TEST.BEST_MODE", "most", "TEST.BEST_METRIC", "sem_seg/mIoU"))
    trainer = Trainer(toy_config(tmp_path, "TEST.EVAL_PERIOD", "2", "TEST.BEST_METRIC", "sem_seg/mAP"))
    with pytest.raises(ValueError, match=r'TEST.BEST_METRIC is "sem_seg/mAP", .*; it gives .*sem_seg/mIoU'):
        trainer.train()
