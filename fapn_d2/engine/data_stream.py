"""Training batches whose order and augmentation can be continued at any iteration.

Detectron2's loaders start with a new order each time they are built. Their augmentations depend on the number of
workers. A :class:`DataStream` uses the sampler, the batch size and the grouping by aspect ratio of such a loader, but
draws the indices in the main process. So the first n batches can be skipped without reading them. Each sample is mapped
under its own seed (seeding.py).
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

from .parallel import end_with_parent
from .seeding import seeded
from .signals import SIGNALS

logger = logging.getLogger(__name__)


class DataStream:
    """An endless iterable of batches (lists of samples) of this process, from batch ``position`` on.

    Args:
        dataset: the mapping from an index to an augmented sample.
        sampler: an endless iterable of indices for this rank. Its order depends only on its attributes, as for
            Detectron2's samplers.
        batch_size: the number of samples per batch in this process.
        seed: the seed of the augmentations, the same on all ranks.
        is_wide: a function that says whether the image of an index is wider than high. Each batch then holds only
            wide images or only others. None: images are not grouped.
        num_workers: the number of loader processes; 0 loads in this process.
        worker_init: a function that each loader process calls with its number.
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
        # Python calls this when it exits, before it ends its child processes. The traceback of a failure, or a caller,
        # may keep this generator alive until then.
        at_exit = Finalize(None, setattr, (over, "value", True), exitpriority=0)
        loader = DataLoader(
            _SeededDataset(self._dataset, self.seed),
            batch_sampler=self._index_batches(skip=self.position),
            num_workers=self._num_workers,
            collate_fn=_as_list,
            worker_init_fn=partial(_start_worker, over=over, then=self._worker_init),
            generator=torch.Generator(),  # otherwise it would use the global generator, as the network does
        )
        try:
            for batch in loader:
                self.position += 1
                yield batch
        finally:
            at_exit()

    def _index_batches(self, skip: int) -> Iterator[list[tuple[int, int]]]:
        """Batches of (position in the order of all ranks, index), without the first ``skip`` batches."""
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
        """Continue where ``state`` was saved.

        If the number of processes or the batch size has changed, training continues at the same sample. If the data
        have changed, only the position is kept, and a warning is logged.
        """
        if _sizes(state["sampler"]) != _sizes(_state_of(self.sampler)):
            logger.warning("The training data are not those of the checkpoint: their order starts anew.")
        else:
            vars(self.sampler).update(state["sampler"])
        self.seed = state["seed"]
        self.position = state["position"] * state["total_batch"] // (self.batch_size * comm.get_world_size())


def stream_of(loader: Any, *, seed: int) -> Any:
    """The :class:`DataStream` for a loader of Detectron2. Other loaders are returned unchanged, with a warning.

    Args:
        loader: the return value of ``build_detection_train_loader``.
        seed: the seed of the augmentations, as in :class:`DataStream`.
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
    # The records contain the sizes of the images, but Detectron2 keeps them in a private attribute. Opening every image
    # for its size would make skipping slow.
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
    """(width, height), from the record, otherwise from the header of the image file."""
    if "width" in record and "height" in record:
        return record["width"], record["height"]
    try:
        with Image.open(record["file_name"]) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # rotated by 90 degrees
            return image.size[::-1] if turned else image.size
    except OSError:
        return 1, 0  # the mapper reports what is wrong with the file


def _state_of(sampler: Any) -> dict[str, Any]:
    state = {k: v for k, v in vars(sampler).items() if isinstance(v, (int, float, torch.Tensor))}
    return {k: v for k, v in state.items() if k not in ("_rank", "_world_size")}


def _sizes(state: dict[str, Any]) -> dict[str, Any]:
    """The part of the state that describes the data: the number of records, and the shapes of tensors over records."""
    return {k: v.shape if isinstance(v, torch.Tensor) else v for k, v in state.items() if "seed" not in k}


def _as_list(batch: list) -> list:
    return batch


def _start_worker(number: int, over: ctypes.c_bool, then: Callable[[int], None] | None) -> None:
    # Job schedulers and terminals send signals to every process of a job. The main process finishes its iteration
    # first, so its workers must ignore these signals. PyTorch and Python end workers by SIGTERM too. A worker
    # therefore obeys SIGTERM once the main process needs no more batches.
    for number in set(SIGNALS) - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if over.value else None)
    end_with_parent()
    if over.value:  # the signal may have come before the handlers above were set
        os._exit(0)
    if "cv2" in sys.modules:  # by default, each worker would start one thread per core
        sys.modules["cv2"].setNumThreads(0)
    if then is not None:
        then(number)
