"""What the alignments of trained networks do to images: PNGs and one HTML page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from PIL import Image
from torch import nn

from ..data import PyramidDatasetMapper
from .checkpoint import Checkpointer
from .pictures.alignment import REDUCTION
from .pictures.color import to_hex
from .pictures.paint import enlarge, paint_segments
from .pictures.recording import pyramid_of
from .pictures.segments import Segments, from_labels
from .pictures.sheet import Picture, sheet
from .pictures.view import View, alignment_row, look
from .report import Page
from .trainer import Trainer

#: Pictures are enlarged by whole numbers until their longer side has about this many pixels.
WANTED_SIZE = 560


@dataclass
class Network:
    """A trained network and its name in the pictures."""

    name: str
    cfg: CfgNode
    model: nn.Module
    mapper: PyramidDatasetMapper

    @classmethod
    def load(cls, name: str, cfg: CfgNode) -> "Network":
        """Build the network of a config and fill it with MODEL.WEIGHTS.

        Raises:
            ValueError, FileNotFoundError: weights that do not fit or are not there, or a network without a pyramid of
                this package.
        """
        if not cfg.MODEL.WEIGHTS:
            raise ValueError(f"{name} has no weights: name a checkpoint, as in MODEL.WEIGHTS output/model_final.pth")
        if not cfg.DATASETS.TEST:
            raise ValueError(f"DATASETS.TEST of {name} is empty: the names and colours of classes come from there")
        model = Trainer.build_model(cfg).eval()
        pyramid_of(model)
        Checkpointer(model, cfg.OUTPUT_DIR, cfg=cfg).load(cfg.MODEL.WEIGHTS)
        return cls(name, cfg, model, PyramidDatasetMapper(cfg, is_train=False))

    def look(self, record: dict, *, least_score: float) -> View:
        """This network's view of a record of a data set, or of ``{"file_name": ...}``."""
        return look(
            self.model,
            self.mapper(dict(record)),
            dataset=self.cfg.DATASETS.TEST[0],
            image_format=self.cfg.INPUT.FORMAT,
            least_score=least_score,
        )


def choose_records(dataset: str, *, files: Sequence[str], number: int) -> list[dict]:
    """Records of image files, or, without any, the first ``number`` of a data set with their labels.

    Raises:
        FileNotFoundError: a file that is not there.
    """
    for file in files:
        if not Path(file).is_file():
            raise FileNotFoundError(f"image {file} does not exist")
    return [{"file_name": str(file)} for file in files] or DatasetCatalog.get(dataset)[:number]


def write_alignment_report(
    networks: Sequence[Network], records: Sequence[dict], folder: str | Path, *, least_score: float = 0.5
) -> Path:
    """Write ``<image>_predictions.png``, ``<image>_<network>.png`` (its alignments) and ``index.html`` with them all.

    Args:
        networks: one or more; their predictions stand side by side.
        records: of ``choose_records``.
        folder: made if need be.
        least_score: of instances that are drawn.

    Returns:
        Path of the page.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = " and ".join(n.name for n in networks)
    page = Page(
        f"Alignment in {names}",
        f"Maps before and after each alignment are the {REDUCTION}, before and after on one colour scale. Offsets are "
        "means over taps and groups, weighted by their strength, in pixels of the network's input.",
    )
    for record in records:
        _report_image(page, networks, record, folder, least_score=least_score)
    return page.write(folder / "index.html")


def _report_image(page: Page, networks: Sequence[Network], record: dict, folder: Path, *, least_score: float) -> None:
    stem = Path(record["file_name"]).stem
    image = np.asarray(Image.open(record["file_name"]).convert("RGB"))
    views = [network.look(record, least_score=least_score) for network in networks]
    scale = _scale(image)
    found = [(network.name, view.found) for network, view in zip(networks, views)]
    if "annotations" in record or "sem_seg_file_name" in record:
        found.append(("ground truth", from_labels(record, networks[0].cfg.DATASETS.TEST[0])))
    row = [Picture(paint_segments(image, segments, scale=scale), name) for name, segments in found]
    row.append(Picture(enlarge(image, scale), "image"))
    page.section(stem)
    page.legend(_legend([segments for _, segments in found]))
    page.pictures([row], columns=len(row))
    _save(sheet([row]), folder / f"{stem}_predictions.png")
    for network, view in zip(networks, views):
        rows = [alignment_row(a, view.seen, scale=_scale(view.seen)) for a in view.alignments]
        page.text(f"Alignments of {network.name}, coarsest first:")
        page.pictures(rows, columns=max(map(len, rows)))
        _save(sheet(rows), folder / f"{stem}_{network.name}.png")


def _legend(all_found: Sequence[Segments]) -> list[tuple[str, str]]:
    colors = {s.name: to_hex(s.class_color) for found in all_found for s in found.segments.values()}
    return sorted(colors.items())


def _scale(image: np.ndarray) -> int:
    return max(1, round(WANTED_SIZE / max(image.shape[:2])))


def _save(picture: np.ndarray, path: Path) -> None:
    Image.fromarray(picture).save(path, optimize=True)
