"""Training on a small data set: what is written and scored, and that interrupted runs end as if uninterrupted."""

import json
import logging
import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.engine import HookBase
from PIL import Image

from fapn_d2.engine import Trainer, evaluate
from fapn_d2.engine.train_step import NonFiniteLossError
from fapn_d2.evaluation.sem_seg import confusion_matrix
from fapn_d2.evaluation.sem_seg import scores as scores_of
from fapn_d2.messages import EXIT_STOPPED

from ..toys.training import losses_of, same_weights, toy_config

NO_EVALUATION = ("DATASETS.TEST", "()")
CLASS_UNIFORM = ("DATALOADER.SAMPLER_TRAIN", "ClassUniformSampler")


def trained(cfg, *, resume: bool = False, hook: HookBase | None = None) -> Trainer:
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    if hook is not None:
        trainer.register_hooks([hook])
    trainer.train()
    return trainer


class At(HookBase):
    """Calls something after an iteration."""

    def __init__(self, iteration: int, action):
        self.iteration, self.action = iteration, action

    def before_step(self):
        if self.trainer.iter == self.iteration:
            self.action()


def test_files_and_scores(camvid, tmp_path):
    trainer = trained(toy_config(tmp_path / "out", "SOLVER.MAX_ITER", "30", "TEST.EVAL_PERIOD", "20"))
    losses = losses_of(trainer)
    assert list(losses) == list(range(30)) and losses[29] < 0.7 * losses[0]
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.json").read_text().splitlines()]
    assert {"total_loss", "loss_sem_seg", "lr", "data_time"} <= set(lines[0]) and "eta_seconds" in lines[0]
    assert any("sem_seg/mIoU" in line and line["iteration"] == 19 for line in lines)
    assert list((tmp_path / "out").glob("events.out.tfevents.*"))
    assert (tmp_path / "out" / "last_checkpoint").read_text() == "model_final.pth"
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["sem_seg"]["mIoU"] == pytest.approx(trainer._last_eval_results["sem_seg"]["mIoU"])
    assert (tmp_path / "out" / "inference" / "camvid_sem_seg_val" / "sem_seg_evaluation.json").exists()

    weights = str(tmp_path / "out" / "model_final.pth")
    again = evaluate(toy_config(tmp_path / "eval", "MODEL.WEIGHTS", weights))
    assert again["sem_seg"]["mIoU"] == pytest.approx(results["sem_seg"]["mIoU"])
    assert again["sem_seg"]["pACC"] > 30  # eleven classes at random would be 9
    resumed = evaluate(toy_config(tmp_path / "out"), resume=True)
    assert resumed["sem_seg"]["mIoU"] == pytest.approx(results["sem_seg"]["mIoU"])


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("SOLVER.OPTIMIZER", "AdamW", "SOLVER.AMP.ENABLED", "True"),
        ("SEED", "-1"),
        (*CLASS_UNIFORM, "INPUT.CROP.ENABLED", "True", "INPUT.CROP.TYPE", "relative", "INPUT.CROP.SIZE", "[0.7, 0.7]"),
    ],
)
def test_resumed_run_ends_as_if_uninterrupted(camvid, tmp_path, more):
    more = (*more, *NO_EVALUATION, "SOLVER.CHECKPOINT_PERIOD", "3", "MODEL.FPN.NORM", "BN")
    whole = trained(toy_config(tmp_path / "whole", *more))

    os.makedirs(tmp_path / "part")
    for name in ("model_0000002.pth", "last_checkpoint"):  # as a kill after the third iteration leaves it
        (tmp_path / "part" / name).write_bytes((tmp_path / "whole" / name).read_bytes())
    (tmp_path / "part" / "last_checkpoint").write_text("model_0000002.pth")
    torch.rand(5)
    rest = trained(toy_config(tmp_path / "part", *more, "DATALOADER.NUM_WORKERS", "1"), resume=True)
    assert rest.start_iter == 3
    expected = losses_of(whole)
    assert losses_of(rest) == {n: expected[n] for n in (3, 4, 5)}  # to the last bit
    assert same_weights(whole.model, rest.model)
    assert len(set(expected.values())) == 6


def test_the_seed_decides(camvid, tmp_path):
    first = trained(toy_config(tmp_path / "a", *NO_EVALUATION))
    again = trained(toy_config(tmp_path / "b", *NO_EVALUATION))
    other = trained(toy_config(tmp_path / "c", *NO_EVALUATION, "SEED", "8"))
    assert losses_of(first) == losses_of(again) and same_weights(first.model, again.model)
    assert not set(losses_of(first).values()) & set(losses_of(other).values())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_saves_and_ends(camvid, tmp_path, number, caplog):
    before = signal.getsignal(number)
    whole = trained(toy_config(tmp_path / "whole", *NO_EVALUATION))
    cfg = toy_config(tmp_path / "part", *NO_EVALUATION, "DATALOADER.NUM_WORKERS", "2")
    with pytest.raises(SystemExit) as stopped:
        trained(cfg, hook=At(2, lambda: os.kill(os.getpid(), number)))
    assert stopped.value.code == EXIT_STOPPED == 75
    assert "saving after iteration 2; go on with --resume" in caplog.text
    assert (tmp_path / "part" / "last_checkpoint").read_text() == "model_0000002.pth"
    assert signal.getsignal(number) == before
    assert not multiprocessing.active_children()  # idle loader processes would hold up the exit
    rest = trained(cfg, resume=True)
    assert rest.start_iter == 3 and same_weights(whole.model, rest.model)


def test_signal_in_the_last_iteration_changes_nothing(camvid, tmp_path):
    trained(toy_config(tmp_path, *NO_EVALUATION), hook=At(5, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_resume_falls_back_over_a_broken_checkpoint(camvid, tmp_path, caplog):
    more = (*NO_EVALUATION, "SOLVER.CHECKPOINT_PERIOD", "2")
    whole = trained(toy_config(tmp_path, *more))
    for name in ("model_final.pth", "model_0000005.pth"):
        os.truncate(tmp_path / name, 100)
    rest = trained(toy_config(tmp_path, *more), resume=True)
    assert rest.start_iter == 4 and "skipping a checkpoint" in caplog.text
    assert same_weights(whole.model, rest.model)


def test_overwriting_a_run_is_said(camvid, tmp_path, caplog):
    cfg = toy_config(tmp_path, *NO_EVALUATION, "SOLVER.MAX_ITER", "1")
    trained(cfg)
    assert "earlier run" not in caplog.text
    trained(cfg)
    assert "holds an earlier run, which this one overwrites" in caplog.text


def test_loss_that_is_not_finite_names_the_images(camvid, tmp_path):
    cfg = toy_config(tmp_path, *NO_EVALUATION, "SOLVER.BASE_LR", "1e30", "SOLVER.WARMUP_ITERS", "0")
    with pytest.raises(NonFiniteLossError, match=r"(?s)at iteration [1-5], .*images: .*camvid/train/\d.png, .*\d.png"):
        trained(cfg)


def test_sync_bn_works_in_one_process(camvid, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        trained(toy_config(tmp_path, *NO_EVALUATION, "MODEL.FPN.NORM", "SyncBN", "SOLVER.MAX_ITER", "1"))
    assert caplog.text.count("1 SyncBN layers work as BatchNorm") == 1


def test_tuning_leaves_out_what_the_config_names(camvid, tmp_path):
    first = trained(toy_config(tmp_path / "a", *NO_EVALUATION, "SOLVER.MAX_ITER", "1"))
    weights = ("MODEL.WEIGHTS", str(tmp_path / "a" / "model_final.pth"))
    second = Trainer(toy_config(tmp_path / "b", *weights, "MODEL.WEIGHTS_SKIP", "['scores']", "SEED", "8"))
    second.resume_or_load(resume=False)
    assert torch.equal(second.model.hidden.weight, first.model.hidden.weight)
    assert not torch.equal(second.model.scores.weight, first.model.scores.weight)


def test_what_cannot_work_is_refused_before_the_model_is_built(camvid, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "build_model", classmethod(lambda cls, cfg: pytest.fail("built")))
    with pytest.raises(ValueError, match=r"camvid_sem_seg_tran"):
        Trainer(toy_config(tmp_path, "DATASETS.TRAIN", "('camvid_sem_seg_tran',)"))
    with pytest.raises(FileNotFoundError, match="camvid_sem_seg_test"):
        Trainer(toy_config(tmp_path, "DATASETS.TEST", "('camvid_sem_seg_test',)"))
    with pytest.raises(ValueError, match=r"SOLVER.IMS_PER_BATCH is 0, which is not a multiple"):
        Trainer(toy_config(tmp_path, "SOLVER.IMS_PER_BATCH", "0"))
    with pytest.raises(ValueError, match=r"SOLVER.AMP.DTYPE \"float16\" needs CUDA"):
        Trainer(toy_config(tmp_path, "SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "float16"))


def test_unreadable_image_is_named(camvid, tmp_path):
    broken = DatasetCatalog.get("camvid_sem_seg_train")[1]["file_name"]
    with open(broken, "wb") as file:
        file.write(b"no image")
    with pytest.raises(ValueError, match=r"camvid/train/1.png"):
        trained(toy_config(tmp_path, *NO_EVALUATION))


def test_evaluation_without_weights_is_refused(camvid, tmp_path, caplog):
    with pytest.raises(ValueError, match=r"no weights are given: set MODEL.WEIGHTS"):
        evaluate(toy_config(tmp_path))
    assert evaluate(toy_config(tmp_path), allow_partial=True)["sem_seg"]["mIoU"] >= 0


def test_windows_and_mirror_images_are_scored(camvid, tmp_path):
    """At TEST.EVAL_PERIOD, at the end and alone; against the same by hand."""
    test = ("TEST.SEM_SEG.MODE", "slide", "TEST.SEM_SEG.CROP_SIZE", "(16, 32)", "TEST.SEM_SEG.STRIDE", "1.0")
    test = (*test, "TEST.SEM_SEG.FLIP", "True", "TEST.EVAL_PERIOD", "4", "SOLVER.MAX_ITER", "8")
    trainer = trained(toy_config(tmp_path / "out", *test))
    weights = ("MODEL.WEIGHTS", str(tmp_path / "out" / "model_final.pth"))
    alone = evaluate(toy_config(tmp_path / "eval", *test, *weights))["sem_seg"]
    assert alone == pytest.approx(trainer._last_eval_results["sem_seg"], nan_ok=True)
    assert trainer.model.training

    model, matrix = trainer.model.eval(), 0
    labels = {r["file_name"]: r["sem_seg_file_name"] for r in DatasetCatalog.get("camvid_sem_seg_val")}
    for (sample,) in Trainer.build_test_loader(trainer.cfg, "camvid_sem_seg_val"):
        image, total = sample["image"], 0
        for view in (image, image.flip(-1)):  # 32x32: an upper and a lower half
            halves = [{"image": half, "height": 16, "width": 32} for half in (view[:, :16], view[:, 16:])]
            with torch.no_grad():
                scores = torch.cat([x["sem_seg"] for x in model(halves)], dim=1)
            total = total + (scores if view is image else scores.flip(-1))
        truth = torch.from_numpy(np.array(Image.open(labels[sample["file_name"]]), np.int64))
        matrix = matrix + confusion_matrix(total.argmax(0), truth, 11)
    expected = scores_of(matrix.numpy(), [str(n) for n in range(11)])
    assert alone["mIoU"] == pytest.approx(expected["mIoU"])
    plain = evaluate(toy_config(tmp_path / "plain", *weights))["sem_seg"]
    assert plain["mIoU"] != alone["mIoU"]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_amp_on_cuda(camvid, tmp_path, dtype):
    amp = ("MODEL.DEVICE", "cuda", "SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", dtype)
    whole = trained(toy_config(tmp_path, *amp, "SOLVER.MAX_ITER", "30", "SOLVER.CHECKPOINT_PERIOD", "10"))
    losses = losses_of(whole)
    assert losses[29] < 0.7 * losses[0]
    (tmp_path / "last_checkpoint").write_text("model_0000019.pth")
    rest = trained(toy_config(tmp_path, *amp, "SOLVER.MAX_ITER", "30"), resume=True)
    assert rest.start_iter == 20
    assert losses_of(rest)[20] == pytest.approx(losses[20], rel=1e-3)
