"""A stream yields what Detectron2's loader yields, from any batch on, with any number of workers and processes."""

import itertools
import logging
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch
from detectron2.data import build_batch_data_loader, build_detection_train_loader
from detectron2.data.common import MapDataset
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm
from PIL import Image
from torch.utils.data import get_worker_info

from fapn_d2.engine.data_stream import DataStream, stream_of

#: Records of wide and high images.
RECORDS = [{"n": n, "width": 40 if n % 3 else 20, "height": 30} for n in range(10)]


def augmented(record: dict) -> dict:
    return {**record, "shift": float(np.random.rand()), "noise": float(torch.rand(()))}


def loader(*, grouped: bool = False, workers: int = 0, seed: int = 3, size: int = 10, sampler=None):
    return build_detection_train_loader(
        RECORDS[:size],
        mapper=augmented,
        sampler=sampler or TrainingSampler(size, seed=seed),
        total_batch_size=2 * comm.get_world_size(),
        aspect_ratio_grouping=grouped,
        num_workers=workers,
    )


def batches(source, count: int) -> list[list[dict]]:
    return list(itertools.islice(iter(source), count))


def numbers(taken: list[list[dict]]) -> list[list[int]]:
    return [[record["n"] for record in batch] for batch in taken]


@pytest.mark.parametrize("grouped", [False, True])
def test_same_order_as_detectron2(grouped):
    expected = numbers(batches(loader(grouped=grouped), 15))
    assert numbers(batches(stream_of(loader(grouped=grouped), seed=0), 15)) == expected
    wide = [{bool(n % 3) for n in batch} for batch in expected]
    assert all(len(kinds) == 1 for kinds in wide) == grouped


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_taken_up_anywhere(grouped, workers):
    uninterrupted = batches(stream_of(loader(grouped=grouped), seed=5), 9)
    first = stream_of(loader(grouped=grouped, workers=workers), seed=5)
    assert batches(first, 4) == uninterrupted[:4]  # augmentations too: they do not depend on the workers
    assert first.position == 4
    second = stream_of(loader(grouped=grouped, workers=workers, seed=99), seed=98)
    second.load_state_dict(first.state_dict())
    assert batches(second, 5) == uninterrupted[4:]


def test_epochs_are_augmented_anew():
    taken = list(itertools.chain(*batches(stream_of(loader(), seed=5), 10)))
    shifts = {n: [record["shift"] for record in taken if record["n"] == n] for n in range(10)}
    assert all(len(values) == 2 and values[0] != values[1] for values in shifts.values())


def test_loading_leaves_the_networks_random_numbers_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    batches(stream_of(loader(), seed=5), 3)
    assert torch.equal(torch.rand(3), expected)


def test_processes_share_one_order(monkeypatch):
    together = batches(stream_of(loader(), seed=5), 6)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(comm, "get_world_size", lambda: 2)
        monkeypatch.setattr("detectron2.data.build.get_world_size", lambda: 2)
        part = stream_of(loader(), seed=5)
        taken = batches(part, 3)
        parts.append(taken)
        if rank == 0:
            state = part.state_dict()
    for n in range(3):  # batches of 2 in 2 processes are two batches of 2 in one, augmentations included
        one = sorted(together[2 * n] + together[2 * n + 1], key=lambda record: record["n"])
        two = sorted(parts[0][n] + parts[1][n], key=lambda record: record["n"])
        assert one == two
    monkeypatch.undo()
    alone = stream_of(loader(seed=1), seed=1)  # and a run in 2 processes goes on in one
    alone.load_state_dict(state)
    assert alone.position == 6 and batches(alone, 1) == batches(stream_of(loader(), seed=5), 7)[6:]


def test_other_samplers():
    factors = torch.linspace(1, 2.5, 10)
    first = stream_of(loader(sampler=RepeatFactorTrainingSampler(factors, seed=4)), seed=5)
    taken = batches(first, 12)
    second = stream_of(loader(sampler=RepeatFactorTrainingSampler(factors, seed=1)), seed=5)
    state = first.state_dict() | {"position": 7}
    second.load_state_dict(state)
    assert batches(second, 5) == taken[7:]


def test_other_data_are_noticed(caplog):
    state = stream_of(loader(), seed=5).state_dict() | {"position": 3}
    other = stream_of(loader(size=8), seed=6)
    other.load_state_dict(state)
    assert "training data are not those of the checkpoint" in caplog.text
    assert other.position == 3 and max(n for batch in numbers(batches(other, 8)) for n in batch) == 7


def test_sizes_that_records_do_not_hold(tmp_path):
    records = []
    for n, size in enumerate(((8, 4), (4, 8), (8, 4), (8, 4))):
        records.append({"n": n, "file_name": str(tmp_path / f"{n}.jpg")})
        turned = Image.Exif()
        turned[274] = 6 if n == 2 else 1  # the third is stored on its side
        Image.new("RGB", size).save(records[-1]["file_name"], exif=turned)
    records.append({"n": 4, "file_name": str(tmp_path / "absent.jpg")})
    # Detectron2 learns the size from the mapped record; the broken one counts as wide here.
    source = build_batch_data_loader(
        MapDataset(records, lambda r: r), TrainingSampler(5, shuffle=False, seed=0), 2, aspect_ratio_grouping=True
    )
    assert numbers(batches(stream_of(source, seed=0), 3)) == [[1, 2], [0, 3], [4, 0]]


def test_unknown_loaders_pass(caplog):
    with caplog.at_level(logging.WARNING):
        assert stream_of([1, 2], seed=0) == [1, 2]
    assert "loader of type list: a resumed run sees its data anew" in caplog.text


def test_workers_survive_one_signal():
    class Signalled(torch.utils.data.Dataset):
        def __getitem__(self, index):
            assert get_worker_info() is not None
            os.kill(os.getpid(), signal.SIGUSR1)
            if index == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            return index

    stream = DataStream(Signalled(), range(4), batch_size=2, seed=0, num_workers=1)
    assert list(stream) == [[0, 1], [2, 3]]


class Ending(torch.utils.data.Dataset):
    def __getitem__(self, index):
        if index == 1:
            raise ValueError("bad image")
        return index


def _fail_and_keep_the_error(start_late: bool) -> None:
    """What a training does: it fails with loader processes alive, and the error's traceback holds them to the end."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # as the trainer's hook; forked processes begin with it
    late = (lambda number: time.sleep(number)) if start_late else None
    stream = DataStream(Ending(), [1, 0, 0, 0], batch_size=1, seed=0, num_workers=2, worker_init=late)
    try:
        list(stream)
    except ValueError as error:
        kept.append(error)


kept = []


@pytest.mark.parametrize("start_late", [False, True])
def test_workers_end_with_the_process_whose_training_failed(start_late):
    process = multiprocessing.get_context("fork").Process(target=_fail_and_keep_the_error, args=(start_late,))
    process.start()
    process.join(20)
    code = process.exitcode
    if code is None:
        process.kill()
    assert code == 0


def test_workers_end_with_a_process_that_still_holds_the_stream():
    def leave() -> None:
        stream = iter(DataStream(Ending(), [0, 0, 0, 0], batch_size=1, seed=0, num_workers=1))
        kept.append((next(stream), stream))

    process = multiprocessing.get_context("fork").Process(target=leave)
    process.start()
    process.join(20)
    code = process.exitcode
    if code is None:
        process.kill()
    assert code == 0
