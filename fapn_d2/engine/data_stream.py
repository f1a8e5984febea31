"""Training batches whose order and augmentation can be taken up at any iteration.

Detectron2's loaders start anew, with another order, each time they are built, and their workers' augmentations depend
on how many workers there are. A :class:`DataStream` takes such a loader apart and yields batches by the same rules
(sampler, batch size, grouping by aspect ratio), but from indices drawn in the main process: skipping the first n
batches costs no reading, and each sample is mapped under a seed of its own (seeding.py).
"""

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.sharedctypes import RawValue
from multiprocessing.util import Finalize
from typing import Any

import torch
from detectron2.data.common import AspectRatioGroupedDataset, MapDataset, ToIterableDataset
from detectron2.utils import comm
from PIL import ExifTags, Image
from torch.utils.data import DataLoader, Dataset

from .seeding import seeded

logger = logging.getLogger(__name__)


class DataStream:
    """An endless iterable of batches (lists of samples) of this process, from batch ``position`` on.

    Args:
        dataset: index -> sample, with the augmentation in it.
        sampler: endless indices for this rank, a function of its attributes alone, as Detectron2's samplers are.
        batch_size: samples a batch in this process.
        seed: of the augmentations; the same on all ranks.
        is_wide: index -> whether the image is wider than high; batches then hold images of one kind. None: no grouping.
        num_workers: loader processes; 0 loads in this one.
        worker_init: called in each loader process with its number.
    """

    def __init__(
        self,
        dataset: Dataset,
        sampler: Any,
        *,
        batch_size: int,
        seed: int,
        is_wide: Callable[[int], bool] | None = None,
        num_workers: int = 0,
        worker_init: Callable[[int], None] | None = None,
    ):
        self.sampler = sampler
        self.batch_size = batch_size
        self.seed = seed
        self.position = 0
        self._dataset = dataset
        self._is_wide = is_wide
        self._num_workers = num_workers
        self._worker_init = worker_init

    def __iter__(self) -> Iterator[list]:
        # A generator: the position is read at the first batch, after a checkpoint may have moved it.
        over = RawValue(ctypes.c_bool, False)
        # Python ends its processes when it exits, after it has called this. A failure's traceback or a caller may hold
        # this generator until then.
        at_exit = Finalize(None, setattr, (over, "value", True), exitpriority=0)
        loader = DataLoader(
            _SeededDataset(self._dataset, self.seed),
            batch_sampler=self._index_batches(skip=self.position),
            num_workers=self._num_workers,
            collate_fn=_as_list,
            worker_init_fn=partial(_start_worker, over=over, then=self._worker_init),
            generator=torch.Generator(),  # or it would draw from the network's random numbers
        )
        try:
            for batch in loader:
                self.position += 1
                yield batch
        finally:
            at_exit()

    def _index_batches(self, skip: int) -> Iterator[list[tuple[int, int]]]:
        """Batches of (place in the order of all ranks, index), without the first ``skip``."""
        world_size, rank = comm.get_world_size(), comm.get_rank()
        buckets: dict[bool, list] = {False: [], True: []}
        for n, index in enumerate(self.sampler):
            bucket = buckets[self._is_wide(index) if self._is_wide else False]
            bucket.append((n * world_size + rank, index))
            if len(bucket) == self.batch_size:
                batch = list(bucket)
                bucket.clear()
                if skip:
                    skip -= 1
                else:
                    yield batch

    def state_dict(self) -> dict[str, Any]:
        return {
            "position": self.position,
            "total_batch": self.batch_size * comm.get_world_size(),
            "seed": self.seed,
            "sampler": _state_of(self.sampler),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was saved. Another number of processes or images a batch keeps the place in the
        order of samples; other data keep only the place, and this is logged."""
        if _sizes(state["sampler"]) != _sizes(_state_of(self.sampler)):
            logger.warning("The training data are not those of the checkpoint: their order starts anew.")
        else:
            vars(self.sampler).update(state["sampler"])
        self.seed = state["seed"]
        self.position = state["position"] * state["total_batch"] // (self.batch_size * comm.get_world_size())


def stream_of(loader: Any, *, seed: int) -> Any:
    """The :class:`DataStream` that yields what a loader of Detectron2 does; a loader of another kind unchanged.

    Args:
        loader: from ``build_detection_train_loader``.
        seed: as in :class:`DataStream`.
    """
    grouped = isinstance(loader, AspectRatioGroupedDataset)
    inner = loader.dataset if grouped else loader
    source = getattr(inner, "dataset", None)
    if not isinstance(inner, DataLoader) or not isinstance(source, ToIterableDataset):
        logger.warning("A training loader of type %s: a resumed run sees its data anew.", type(loader).__name__)
        return loader
    if grouped and not isinstance(source.dataset, MapDataset):
        logger.warning("The size of images is unknown before loading: a resumed run sees its data anew.")
        return loader
    # The records are the one thing that Detectron2 keeps private; sizes stand in them, and reading images for the
    # sake of their size would make skipping as slow as training.
    is_wide = _WiderThanHigh(source.dataset._dataset) if grouped else None
    return DataStream(
        source.dataset,
        source.sampler,
        batch_size=loader.batch_size,
        seed=seed,
        is_wide=is_wide,
        num_workers=inner.num_workers,
        worker_init=inner.worker_init_fn,
    )


class _SeededDataset(Dataset):
    def __init__(self, dataset: Dataset, seed: int):
        self._dataset = dataset
        self._seed = seed

    def __getitem__(self, place_and_index: tuple[int, int]) -> Any:
        place, index = place_and_index
        with seeded(self._seed, place):
            return self._dataset[index]


class _WiderThanHigh:
    """Whether the image of a record is wider than high, remembered per index."""

    def __init__(self, records: Any):
        self._records = records
        self._known: dict[int, bool] = {}

    def __call__(self, index: int) -> bool:
        if index not in self._known:
            width, height = _size_of(self._records[index])
            self._known[index] = width > height
        return self._known[index]


def _size_of(record: dict) -> tuple[int, int]:
    """(width, height); from the head of the image file where the record does not say."""
    if "width" in record and "height" in record:
        return record["width"], record["height"]
    try:
        with Image.open(record["file_name"]) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # on its side
            return image.size[::-1] if turned else image.size
    except OSError:
        return 1, 0  # the mapper will say what is wrong with the file


def _state_of(sampler: Any) -> dict[str, Any]:
    state = {k: v for k, v in vars(sampler).items() if isinstance(v, (int, float, torch.Tensor))}
    return {k: v for k, v in state.items() if k not in ("_rank", "_world_size")}


def _sizes(state: dict[str, Any]) -> dict[str, Any]:
    """What describes the data, not the draw: number of records, tensors over records."""
    return {k: v.shape if isinstance(v, torch.Tensor) else v for k, v in state.items() if "seed" not in k}


def _as_list(batch: list) -> list:
    return batch


def _start_worker(number: int, over: ctypes.c_bool, then: Callable[[int], None] | None) -> None:
    # Schedulers send SIGTERM and SIGUSR1 to every process of a job. The main process decides when to stop; a worker
    # that died at the signal would break the iteration that is to be finished. SIGTERM ends a worker only when the main
    # process wants no more batches: that is how PyTorch and Python end workers that do not end by themselves.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if over.value else None)
    if over.value:  # the signal came before, while the main process's handler was still in force here
        os._exit(0)
    if "cv2" in sys.modules:  # one thread a core for each worker is far too many
        sys.modules["cv2"].setNumThreads(0)
    if then is not None:
        then(number)
