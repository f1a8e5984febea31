"""The base class of writers of predictions: one image in, one part of the archive out."""

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from PIL import Image


@dataclass(frozen=True)
class Part:
    """The part of an archive that belongs to one image.

    Attributes:
        image: the image's id as text; each image has one part.
        entries: the entries for the JSON file, if the task has one.
        files: (name, content) of the image's files, without the folder in the archive.
    """

    image: str
    entries: tuple[dict, ...] = ()
    files: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True)
class Limits:
    """Which objects of an image are sent, and with which precision.

    Attributes:
        max_per_image: the largest number of objects; the highest scores are kept. COCO's server reads 100 per image.
        score_threshold: objects with a lower score are left out.
        box_decimals: the number of decimals of coordinates in pixels.
        score_digits: the number of significant digits of scores.
    """

    max_per_image: int = 100
    score_threshold: float = 0.0
    box_decimals: int = 1
    score_digits: int = 5

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "Limits":
        """TEST.SUBMISSION of a config.

        Raises:
            ValueError: a number is out of range.
        """
        node = cfg.TEST.SUBMISSION
        limits = cls(node.MAX_PER_IMAGE, node.SCORE_THRESH, node.BOX_DECIMALS, node.SCORE_DIGITS)
        for key, value, least in (
            ("MAX_PER_IMAGE", limits.max_per_image, 1),
            ("BOX_DECIMALS", limits.box_decimals, 0),
            ("SCORE_DIGITS", limits.score_digits, 1),
        ):
            if value < least:
                raise ValueError(f"TEST.SUBMISSION.{key} is {value}; it must be at least {least}")
        return limits

    def kept(self, scores: Sequence[float]) -> list[int]:
        """The positions of the objects to send, highest score first. Equal scores keep their order."""
        order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
        return [int(i) for i in order if scores[i] >= self.score_threshold][: self.max_per_image]

    def score(self, value: float) -> float:
        """A score, rounded to the digits that are sent."""
        return float(f"{value:.{self.score_digits}g}")


class Writer(ABC):
    """Turns predictions on the images of a data set into parts.

    Args:
        dataset_name: a registered data set, whose metadata translate classes.
        limits: the limits that decide which objects are sent.

    Attributes:
        output: the output of the network that is sent: "instances", "sem_seg" or "panoptic_seg".
        writes_json: whether parts have entries.
        writes_files: whether parts have files.
    """

    output: str
    writes_json = False
    writes_files = False

    def __init__(self, dataset_name: str, limits: Limits | None = None):
        self.dataset_name = dataset_name
        self.metadata = MetadataCatalog.get(dataset_name)
        self.limits = limits or Limits()

    def accepts(self, output: dict) -> bool:
        """Whether an output of the network contains what is sent."""
        return self.output in output

    @abstractmethod
    def part(self, record: dict, output: dict) -> Part:
        """The part of an image.

        Args:
            record: the image's record, with "image_id" and "file_name".
            output: the network's output for this image, at the image's own size.

        Raises:
            ValueError: the prediction cannot be sent. The message names the image.
        """

    def kept_parts(self, folder: Path, records: Sequence[dict]) -> Iterator[Part]:
        """The parts of ``records`` from the files that an evaluation kept (TEST.KEEP_PREDICTIONS).

        Args:
            folder: ``OUTPUT_DIR/inference/<data set>``.
            records: the images' records, with "image_id" and "file_name".

        Raises:
            FileNotFoundError: files are missing. The message has their number and the first names.
        """
        raise ValueError(f"the predictions in {folder} are not of a kind that can be sent to this server")


def png(array: np.ndarray) -> bytes:
    """A PNG of an array as Pillow reads it: bool 1 bit, (H, W) uint8 grey, (H, W, 3) uint8 RGB."""
    content = io.BytesIO()
    Image.fromarray(array).save(content, "PNG")
    return content.getvalue()


def decoded(source: bytes | Path) -> np.ndarray:
    """The pixels of an image file as Pillow stores them."""
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        return np.asarray(image)
