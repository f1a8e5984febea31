"""Box proposals that were computed earlier: compact files that processes share, and Detectron2's own files.

A proposal folder contains ``header.json`` (data set, checkpoint, hash of the config, numbers of images and proposals),
``ids.json`` (image ids in order), ``offsets.npy`` (the start of each image's proposals), ``boxes.npy`` (x0, y0, x1, y1
in pixels of the original image) and ``logits.npy``. The arrays are mapped into memory, so processes share them, and
only the proposals of the requested images are read. Nothing is pickled. The proposals of an image are sorted, best
first.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts
from detectron2.data.build import check_metadata_consistency
from detectron2.structures import BoxMode
from torch.utils.data import Dataset

from ..files import write_json
from ..messages import some
from ..pickles import read_pickle

HEADER = "header.json"
_VERSION = 1
#: Names in the files of Caffe2's Detectron -> Detectron2's.
_RENAMED = {"indexes": "ids", "scores": "objectness_logits"}


class ProposalFile:
    """Proposals of the images of a data set.

    Args:
        path: a proposal folder, or a ``.pkl`` file of Detectron2, which is read into memory completely.

    Attributes:
        header: the origin of the proposals; empty for a ``.pkl`` file.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: it is damaged or not complete, or the ``.pkl`` file contains objects that are not data.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.header: dict = {}
        if self.path.suffix == ".pkl" and self.path.is_file():
            self._read_detectron2(read_pickle(str(self.path)))
        else:
            self._open()

    def _open(self) -> None:
        if not (self.path / HEADER).is_file():
            raise FileNotFoundError(
                f"there are no proposals in {self.path}: tools/extract_proposals.py --output {self.path} writes them"
            )
        try:
            self.header = json.loads((self.path / HEADER).read_text())
            ids = json.loads((self.path / "ids.json").read_text())
            self._offsets = np.load(self.path / "offsets.npy", allow_pickle=False)
            boxes = np.load(self.path / "boxes.npy", mmap_mode="r", allow_pickle=False)
            self._boxes = boxes
            self._logits = np.load(self.path / "logits.npy", mmap_mode="r", allow_pickle=False)
            whole = len(ids) + 1 == len(self._offsets) and self._offsets[-1] == len(boxes) == len(self._logits)
        except (OSError, EOFError, ValueError, IndexError) as error:
            raise ValueError(f"the proposals in {self.path} are damaged ({error}); write them again") from error
        if not whole or self.header.get("version") != _VERSION:
            raise ValueError(f"the proposals in {self.path} are not complete or of another version; write them again")
        self._mode = BoxMode.XYXY_ABS
        self._index = {str(name): number for number, name in enumerate(ids)}

    def _read_detectron2(self, content: object) -> None:
        content = {_RENAMED.get(k, k): v for k, v in content.items()} if isinstance(content, dict) else {}
        if missing := {"ids", "boxes", "objectness_logits"} - content.keys():
            raise ValueError(f"{self.path} is not a proposal file of Detectron2: it lacks {some(missing)}")
        lengths = [len(boxes) for boxes in content["boxes"]]
        self._offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self._boxes = np.concatenate([np.zeros((0, 4), np.float32), *content["boxes"]])
        self._logits = np.concatenate([np.zeros(0, np.float32), *content["objectness_logits"]])
        self._mode = BoxMode(content.get("bbox_mode", BoxMode.XYXY_ABS))
        self._index = {str(name): number for number, name in enumerate(content["ids"])}

    def require(self, ids: Iterable[int | str], dataset: str) -> None:
        """Check that every image has an entry.

        Raises:
            ValueError: images of the data set are not in the file.
        """
        ids = [str(name) for name in ids]
        if missing := [name for name in ids if name not in self._index]:
            made = f" They were made for {self.header['dataset']}." if self.header else ""
            raise ValueError(
                f"the proposals in {self.path} lack {len(missing)} of the {len(ids)} images of {dataset} "
                f"({some(missing)}).{made} Write those of {dataset} by tools/extract_proposals.py"
            )

    def of(self, image: int | str) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (N, 4) and logits (N,) of an image as float32 arrays of their own, the best proposal first."""
        number = self._index[str(image)]
        place = slice(self._offsets[number], self._offsets[number + 1])
        boxes, logits = np.array(self._boxes[place], np.float32), np.array(self._logits[place], np.float32)
        if self.header:
            return boxes, logits
        order = np.argsort(logits)[::-1]  # as Detectron2's reader
        return boxes[order], logits[order]

    @property
    def mode(self) -> BoxMode:
        """The meaning of the four numbers of a box."""
        return self._mode


def write_proposals(
    path: str | os.PathLike, header: dict, images: Sequence[int | str], found: Iterator[tuple[np.ndarray, np.ndarray]]
) -> None:
    """Write a proposal folder. Readers see the complete folder or none.

    Args:
        path: the folder; an existing one is replaced.
        header: the entries "dataset", "checkpoint" and "config", and any others.
        images: the image ids, in the order of ``found``.
        found: for each image its boxes (N, 4) in pixels of the original image and its logits (N,), in any order. The
            images are read one by one.
    """
    path, offsets = Path(path), [0]
    beside = path.with_name(f"{path.name}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    with open(beside / "boxes.raw", "wb") as boxes_file, open(beside / "logits.raw", "wb") as logits_file:
        for boxes, logits in found:
            order = np.argsort(-np.asarray(logits), kind="stable")
            boxes_file.write(np.asarray(boxes, np.float32).reshape(-1, 4)[order].tobytes())
            logits_file.write(np.asarray(logits, np.float32)[order].tobytes())
            offsets.append(offsets[-1] + len(order))
    if len(offsets) != len(images) + 1:
        raise ValueError(f"there are {len(images)} images and proposals of {len(offsets) - 1}")
    for name, shape in (("boxes", (offsets[-1], 4)), ("logits", (offsets[-1],))):
        _with_header(beside / f"{name}.raw", beside / f"{name}.npy", shape)
    np.save(beside / "offsets.npy", np.array(offsets, np.int64), allow_pickle=False)
    write_json(str(beside / "ids.json"), list(images), indent=None)
    counts = {"version": _VERSION, "num_images": len(images), "num_proposals": offsets[-1]}
    write_json(str(beside / HEADER), {**header, **counts})
    if path.exists():
        shutil.rmtree(path)
    os.replace(beside, path)


def _with_header(raw: Path, target: Path, shape: tuple[int, ...]) -> None:
    """Write a NumPy file of float32 from the bytes of its values."""
    with open(raw, "rb") as source, open(target, "wb") as file:
        description = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, description)
        shutil.copyfileobj(source, file, 1 << 20)
    raw.unlink()


class RecordsWithProposals(Dataset):
    """Records of a data set. A record gets its proposals when it is requested, so no process has all of them in memory.

    Args:
        records: the records, each with "image_id".
        files: the proposal file of each record.
    """

    def __init__(self, records: Sequence[dict], files: Sequence[ProposalFile]):
        self._records, self._files = records, files

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict:
        """A record with "proposal_boxes", "proposal_objectness_logits" and "proposal_bbox_mode", as Detectron2's."""
        record, file = self._records[index], self._files[index]
        boxes, logits = file.of(record["image_id"])
        names = ("proposal_boxes", "proposal_objectness_logits", "proposal_bbox_mode")
        return {**record, **dict(zip(names, (boxes, logits, file.mode)))}


def files_of(cfg: CfgNode, names: Sequence[str], *, training: bool) -> list[str]:
    """The paths in DATASETS.PROPOSAL_FILES_TRAIN or PROPOSAL_FILES_TEST that belong to data sets.

    Raises:
        ValueError: the key does not have one path for each data set of DATASETS.TRAIN or DATASETS.TEST.
    """
    kind = "TRAIN" if training else "TEST"
    known, paths = list(cfg.DATASETS[kind]), list(cfg.DATASETS[f"PROPOSAL_FILES_{kind}"])
    if len(known) != len(paths) or any(name not in known for name in names):
        raise ValueError(
            f"MODEL.LOAD_PROPOSALS needs a path in DATASETS.PROPOSAL_FILES_{kind} for each data set of "
            f"DATASETS.{kind} ({', '.join(known)}), in the same order; it has {len(paths)}. "
            "tools/extract_proposals.py writes them"
        )
    return [paths[known.index(name)] for name in names]


def records_and_files(
    names: Sequence[str], paths: Sequence[str], *, filter_empty: bool, min_keypoints: int = 0
) -> tuple[list[dict], list[ProposalFile]]:
    """The records of data sets, and the proposal file of each record.

    Raises:
        FileNotFoundError, ValueError: see :class:`ProposalFile` and :meth:`ProposalFile.require`.
    """
    records, files = [], []
    for name, path in zip(names, paths):
        file = ProposalFile(path)
        own = get_detection_dataset_dicts(name, filter_empty=filter_empty, min_keypoints=min_keypoints)
        file.require((record["image_id"] for record in own), name)
        records += own
        files += [file] * len(own)
    if len(names) > 1 and "annotations" in records[0]:
        check_metadata_consistency("thing_classes", names)
    return records, files
