"""Evaluations of splits whose labels are not public: predictions are kept, and nothing is scored."""

import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ...data.datasets.unlabelled import image_list
from .pack import manifest
from .parts import PartsFile, PartsFolder
from .tasks import task_named
from .writer import Limits

logger = logging.getLogger(__name__)


class PredictionKeeper(DatasetEvaluator):
    """Keeps predictions for servers in ``<folder>/<task>``. Every evaluation removes those of the one before.

    Args:
        dataset_name: a registered data set.
        tasks: the names of tasks that read the same output of the network. Tasks whose part is missing in the output
            are skipped.
        folder: a folder on a disk that all processes share.
        limits: the limits that decide which objects are kept.
    """

    def __init__(self, dataset_name: str, tasks: Sequence[str], folder: str, limits: Limits):
        self._tasks = [task_named(name) for name in tasks]
        self._writers = [task.writer(dataset_name, limits) for task in self._tasks]
        self._folders = [PartsFolder(os.path.join(folder, task.name)) for task in self._tasks]
        self._records = image_list(dataset_name)
        self._stack = ExitStack()
        self._files: dict[int, PartsFile] = {}

    def reset(self) -> None:
        self._stack.close()
        self._files = {}
        if comm.is_main_process():
            for task, writer, folder in zip(self._tasks, self._writers, self._folders):
                folder.begin(manifest(task, writer, self._records), restart=True)
        comm.synchronize()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for record, output in zip(inputs, outputs):
            for number, (writer, folder) in enumerate(zip(self._writers, self._folders)):
                if writer.accepts(output):
                    if number not in self._files:
                        self._files[number] = self._stack.enter_context(folder.appending(comm.get_rank()))
                    self._files[number].add(writer.part(record, output))

    def evaluate(self) -> dict:
        """An empty dict, after a check that every image has a prediction.

        Raises:
            ValueError: images have no prediction.
        """
        self._stack.close()
        comm.synchronize()
        if comm.is_main_process():
            for folder in self._folders:
                if any(folder.folder.glob("*.shard")):
                    folder.parts(str(record["image_id"]) for record in self._records)
        return {}
