"""From config and weights to an archive: interrupted, continued, in two processes, and of another checkpoint."""

import logging
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from detectron2.utils import comm

from fapn_d2.engine.launching import launch
from fapn_d2.evaluation.submission.tasks import task_named
from fapn_d2.evaluation.submission.writer import Writer
from fapn_d2.inference import submission
from fapn_d2.inference.submission import Request, fingerprint, write_submission
from tests.evaluation.submission.toys import check
from tests.toys.cityscapes import make_tree
from tests.toys.training import ToySegmentor, toy_config

pytest.importorskip("cityscapesscripts")
DATASET, IMAGES = "cityscapes_fine_sem_seg_test", 5


def config(folder: Path, *opts: str):
    return toy_config(
        folder / "out",
        *("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "19", "MODEL.WEIGHTS", str(folder / "model.pth")),
        *("INPUT.MIN_SIZE_TEST", "0", *opts),
    )


def save(folder: Path, seed: int = 0) -> None:
    torch.manual_seed(seed)
    model = ToySegmentor(config(folder))
    with torch.no_grad():
        model.scores.weight.mul_(10)
    torch.save({"model": model.state_dict()}, folder / "model.pth")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """With five of Cityscapes' test images, no labels, and the weights of a small network."""
    make_tree(tmp_path / "data" / "cityscapes", split="test", images=IMAGES, size=(32, 48))
    shutil.rmtree(tmp_path / "data" / "cityscapes" / "gtFine")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    save(tmp_path)
    return tmp_path


def request(folder: Path, name: str = "sent", **options) -> Request:
    return Request(task_named("cityscapes-pixel"), "test", "Toy", folder / name, DATASET, **options)


def contents(archive: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as file:
        return {name: file.read(name) for name in file.namelist()}


@pytest.fixture
def whole(folder):
    """What one process writes without interruption."""
    archive = write_submission(config(folder), request(folder, "whole"))
    assert archive == folder / "whole" / "cityscapes_pixel_test_Toy.zip"
    report = check(archive, "cityscapes-pixel", DATASET, split="test")
    assert report.ready, report.text()
    found = contents(archive)
    assert len(set(found.values())) == IMAGES == len(found)
    return found


class Counted:
    """Counts the images that are predicted; the one with this number fails."""

    def __init__(self, monkeypatch, fails_at: int = -1):
        self.images = 0
        original = Writer.accepts

        def accepts(writer, output):
            if self.images == fails_at:
                raise KeyboardInterrupt
            self.images += 1
            return original(writer, output)

        monkeypatch.setattr(Writer, "accepts", accepts)


def test_interrupted_and_continued(folder, whole, monkeypatch, caplog):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        Counted(patch, fails_at=3)
        write_submission(config(folder), request(folder))
    (shard,) = (folder / "sent" / "parts" / "cityscapes-pixel_test").glob("*.shard")
    shard.write_bytes(shard.read_bytes()[:-5])  # the machine went down, too
    with caplog.at_level(logging.INFO, logger="fapn_d2"):
        counted = Counted(monkeypatch)
        archive = write_submission(config(folder), request(folder))
    assert counted.images == IMAGES - 2 and contents(archive) == whole
    assert "2 of 5 images have predictions from an earlier start." in caplog.messages
    write_submission(config(folder), request(folder))
    assert counted.images == IMAGES - 2  # all are there


def test_another_checkpoint_does_not_mix(folder, whole, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        Counted(patch, fails_at=3)
        write_submission(config(folder), request(folder))
    save(folder, seed=1)
    with pytest.raises(ValueError, match=r"holds predictions of an earlier run, from which the weights differs\. Name"):
        write_submission(config(folder), request(folder))
    with pytest.raises(ValueError, match="from which the config, the weights differ"):
        write_submission(config(folder, "TEST.SEM_SEG.FLIP", "True"), request(folder))
    other = write_submission(config(folder), request(folder, restart=True))
    assert contents(other).keys() == whole.keys() and contents(other) != whole


def test_fingerprint(folder):
    model = ToySegmentor(config(folder))
    before = fingerprint(model)
    assert fingerprint(model) == before
    with torch.no_grad():
        model.scores.bias[3] += 1e-7
    assert fingerprint(model) != before


def work(folder: str, name: str) -> None:
    path = write_submission(config(Path(folder)), request(Path(folder), name))
    assert (path is not None) == comm.is_main_process()


def test_two_processes_write_as_one(folder, whole):
    launch(work, processes=2, use_cuda=False, args=(str(folder), "two"))
    assert contents(folder / "two" / "cityscapes_pixel_test_Toy.zip") == whole
    shards = {path.name for path in (folder / "two" / "parts" / "cityscapes-pixel_test").glob("*.shard")}
    assert shards == {"000-00000.shard", "000-00001.shard"}


def test_a_disk_that_is_not_shared(folder, monkeypatch):
    """The other machine finds an empty folder."""
    monkeypatch.setattr(submission, "_SEEN_AFTER", 0.3)
    monkeypatch.setattr(submission.comm, "all_gather", lambda found: [(None, "yesterday")])
    with pytest.raises(ValueError, match=r"does not see .*: --output must be on a disk that all machines share"):
        write_submission(config(folder), request(folder))


def test_what_cannot_work(folder, monkeypatch):
    with pytest.raises(ValueError, match="has 5 images here, the server's split test has 1525"):
        write_submission(config(folder), Request(task_named("cityscapes-pixel"), "test", "Toy", folder / "x"))
    with pytest.raises(ValueError, match="the algorithm's name 'My net' becomes part of file names"):
        write_submission(
            config(folder), Request(task_named("cityscapes-pixel"), "test", "My net", folder / "x", DATASET)
        )
    objects = Request(task_named("cityscapes-instance"), "test", "Toy", folder / "x", DATASET)
    with pytest.raises(ValueError, match=r"does not give the instances that this server takes, but \['sem_seg'\]"):
        write_submission(config(folder), objects)
    with pytest.raises(FileNotFoundError, match=r"complete\.json is absent"):
        write_submission(config(folder), request(folder, kept=folder / "nothing"))


def test_from_an_evaluation_without_labels(folder, whole):
    """--eval-only on a test split keeps what `write --predictions` makes the archive of; results.json holds nothing."""
    from fapn_d2.engine.trainer import evaluate

    cfg = config(folder, "DATASETS.TEST", f"('{DATASET}',)", "MODEL.META_ARCHITECTURE", "ToySegmentor")
    assert evaluate(cfg) == {}
    assert (folder / "out" / "results.json").read_text() == "{}"
    kept = folder / "out" / "inference" / DATASET
    assert contents(write_submission(cfg, request(folder, kept=kept))) == whole
