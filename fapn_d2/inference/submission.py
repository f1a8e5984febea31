"""Writing an archive for a server, from a config and weights or from kept predictions.

Any number of processes on machines with a shared disk predict. The first process writes the archive.
"""

import hashlib
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, build_detection_test_loader
from detectron2.utils import comm
from torch import nn
from tqdm import tqdm

from ..config.hashing import config_hash
from ..data import PyramidDatasetMapper
from ..data.datasets.unlabelled import image_list
from ..evaluation.submission import kept
from ..evaluation.submission.pack import manifest, pack
from ..evaluation.submission.parts import PartsFolder
from ..evaluation.submission.tasks import Task
from ..evaluation.submission.writer import Limits, Writer
from ..messages import some
from .box_augmentation import augmented
from .semantic import build_inference
from .trained import load_trained

logger = logging.getLogger(__name__)

#: Seconds to wait until other machines see a written file, because network file systems cache listings.
_SEEN_AFTER = 60.0


@dataclass(frozen=True)
class Request:
    """The archive to write.

    Attributes:
        task: the task of the archive, which determines the server.
        split: the name of the split in ``task.splits``.
        algorithm: the algorithm's name, which becomes part of the archive's name.
        output: the folder of the archive. The predictions are in ``parts/<task>_<split>`` below it.
        dataset: a registered data set; "": the data set of the split.
        kept: the folder of an evaluation that kept its predictions; None: predict.
        restart: whether to remove predictions of an earlier start instead of continuing it.
    """

    task: Task
    split: str
    algorithm: str
    output: Path
    dataset: str = ""
    kept: Path | None = None
    restart: bool = False


def fingerprint(model: nn.Module) -> str:
    """12 hexadecimal digits for the values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:12]


def prepare(cfg: CfgNode, request: Request) -> tuple[Writer, list[dict]]:
    """The writer of the parts, and the records of the images. Nothing is predicted or written here.

    Raises:
        ValueError: a name does not exist, or images of the split are missing.
        FileNotFoundError: there are no images.
    """
    split = request.task.split(request.split)
    request.task.names(request.split, request.algorithm)
    dataset = request.dataset or split.dataset
    records = image_list(dataset)
    if not request.dataset and split.images and len(records) != split.images:
        raise ValueError(
            f"{dataset} has {len(records)} images here, the server's split {split.official} has {split.images}: "
            "complete it, or name a data set of your own by --dataset"
        )
    return request.task.writer(dataset, Limits.from_config(cfg)), records


def write_submission(cfg: CfgNode, request: Request, *, allow_partial: bool = False) -> Path | None:
    """Predict the images without predictions and write the archive. Every process must call this.

    Args:
        cfg: a config from ``load_config``.
        request: the archive to write.
        allow_partial: whether to predict if weights are missing or do not fit.

    Returns:
        The archive, in the main process; None in the others.

    Raises:
        ValueError: a name does not exist, the folder has predictions of another run, images of the split are missing,
            the disk is not shared, or the weights do not fit.
        FileNotFoundError: weights, images or kept predictions are missing.
    """
    writer, records = prepare(cfg, request)
    parts = PartsFolder(request.output / "parts" / f"{request.task.name}_{request.split}")
    if request.kept is not None:
        parts, add = _kept(request, writer, records, parts)
        weights_time = None
    else:
        model = load_trained(cfg, allow_partial=allow_partial)
        described = manifest(
            *(request.task, writer, records),
            config=config_hash(cfg, without=("MODEL.WEIGHTS", "DATASETS", "SOLVER", "DATALOADER")),
            weights=fingerprint(model),
        )
        begin(parts, described, restart=request.restart)
        weights_time = os.path.getmtime(cfg.MODEL.WEIGHTS) if os.path.isfile(cfg.MODEL.WEIGHTS) else None

        def add(missing: list[dict]) -> None:
            predict(cfg, model, writer, parts, missing)

    if add is not None:
        add(missing_records(parts, records))
    comm.synchronize()
    if not comm.is_main_process():
        return None
    _wait_for_all(parts, records)
    return pack(
        *(parts, request.task, request.split, request.algorithm, records, request.output),
        has_files=writer.writes_files,
        weights_time=weights_time,
    )


def begin(parts: PartsFolder, described: dict, *, restart: bool) -> None:
    """The main process makes the folder ready. All processes raise its error, or an error if they cannot see it."""
    error = None
    if comm.is_main_process():
        try:
            parts.begin(described, restart=restart)
        except ValueError as found:
            error = found
    error, started = comm.all_gather((error, (parts.manifest or {}).get("started")))[0]
    if error is not None:
        raise error
    deadline = time.monotonic() + _SEEN_AFTER
    while (parts.manifest or {}).get("started") != started:
        if time.monotonic() > deadline:
            raise ValueError(
                f"{socket.gethostname()} does not see {parts.folder} as the first machine wrote it: --output must be "
                "on a disk that all machines share"
            )
        time.sleep(0.2)


def missing_records(parts: PartsFolder, records: Sequence[dict]) -> list[dict]:
    """Records without a part, the same list in all processes."""
    done = set(parts.index()) if comm.is_main_process() else None
    done = comm.all_gather(done)[0]
    missing = [record for record in records if str(record["image_id"]) not in done]
    if comm.is_main_process() and len(missing) < len(records):
        found = len(records) - len(missing)
        logger.info("%d of %d images have predictions from an earlier start.", found, len(records))
    return missing


def _wait_for_all(parts: PartsFolder, records: Sequence[dict]) -> None:
    """Wait for the parts of other machines, which a network file system may show with a delay."""
    images, deadline = {str(record["image_id"]) for record in records}, time.monotonic() + _SEEN_AFTER
    while comm.get_world_size() > 1 and images - parts.index().keys() and time.monotonic() < deadline:
        time.sleep(1)


def predict(
    cfg: CfgNode, model: nn.Module, writer: Writer, parts: PartsFolder, records: list[dict], *, show: bool = True
) -> None:
    """Predict this process's share of ``records``, as TEST.SEM_SEG and TEST.AUG say, and append each to ``parts``.

    Args:
        cfg: the config, of which TEST, INPUT and DATALOADER are read.
        model: the network, in evaluation mode.
        writer: the writer of the parts.
        parts: the folder of the parts, after ``begin``.
        records: the records of the images of all processes.
        show: whether the main process shows a progress bar.

    Raises:
        ValueError: the network does not return the output that is sent.
    """
    if not records:
        return
    network = augmented(cfg, model) if cfg.TEST.AUG.ENABLED else build_inference(cfg, model)
    loader = build_detection_test_loader(
        dataset=DatasetFromList(records, copy=False),
        mapper=PyramidDatasetMapper(cfg, is_train=False),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    where = f"process 1 of {comm.get_world_size()}" if comm.get_world_size() > 1 else "predicting"
    hidden = not (show and comm.is_main_process())
    with parts.appending(comm.get_rank()) as file, torch.no_grad():
        for batch in tqdm(loader, total=len(loader), desc=where, unit="image", disable=hidden):
            for record, output in zip(batch, network(batch)):
                if not writer.accepts(output):
                    given = [name for name in output if name != writer.output]
                    inside = ": its instances have no masks" if writer.output in output else f", but {given}"
                    raise ValueError(f"the network does not give the {writer.output} that this server takes{inside}")
                file.add(writer.part(record, output))


def _kept(
    request: Request, writer: Writer, records: Sequence[dict], parts: PartsFolder
) -> tuple[PartsFolder, Callable[[list[dict]], None] | None]:
    """The folder of the parts, and a function that adds the missing parts; None if the evaluation kept all parts."""
    folder, origin = request.kept, kept.origin(request.kept)
    complete = PartsFolder(folder / request.task.name)
    if complete.manifest is not None:  # of an evaluation without labels
        if complete.manifest["images"] != manifest(request.task, writer, records)["images"]:
            raise ValueError(
                f"{complete.folder} holds predictions on another list of images than {writer.dataset_name}"
            )
        return complete, None
    source = ", ".join(f"{key} {value}" for key, value in sorted(origin.items()))
    begin(parts, manifest(request.task, writer, records, source=source), restart=request.restart)

    def add(missing: list[dict]) -> None:
        rank, world = comm.get_rank(), comm.get_world_size()
        share = missing[rank::world]
        with parts.appending(rank) as file:
            bar = tqdm(total=len(share), desc="reading", unit="image", disable=not comm.is_main_process(), delay=2)
            seen = set()
            for part in writer.kept_parts(folder, share):
                file.add(part)
                seen.add(part.image)
                bar.update()
            if lacking := {str(r["image_id"]) for r in share} - seen:
                raise ValueError(f"{folder} lacks {len(lacking)} of {len(share)} images ({some(lacking)})")

    return parts, add
