"""PNGs and an HTML page that show what the alignments of trained networks do to images."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from PIL import Image
from torch import nn

from ..data import PyramidDatasetMapper
from ..inference.predictor import find_images
from ..inference.trained import load_trained
from .alignment import REDUCTION
from .color import to_hex
from .errors import find_change, find_errors, paint_change, paint_errors
from .page import Page
from .paint import enlarge, paint_segments
from .recording import pyramid_of
from .segments import Segments, from_labels
from .sheet import Picture, sheet
from .view import View, alignment_row, field_row, look

#: Pictures are enlarged by whole numbers until their longer side has about this many pixels.
WANTED_SIZE = 560
_ERRORS = (
    "Errors: right pixels are black, wrong ones have the colour of the class that they should have, and gray ones have "
    "no ground truth."
)
_CHANGES = " What changes: blue pixels are improved, orange ones worsened, light ones wrong in both."


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
            ValueError, FileNotFoundError: the weights do not fit or do not exist, or the network has no pyramid of this
                package.
        """
        if not cfg.DATASETS.TEST:
            raise ValueError(f"DATASETS.TEST of {name} is empty: the names and colours of classes come from there")
        model = load_trained(cfg, name=name, check=pyramid_of)
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

    Args:
        dataset: name in ``DatasetCatalog``.
        files: files, folders and patterns, see :func:`find_images`.
        number: the number of records of the data set.

    Raises:
        FileNotFoundError: a file does not exist.
    """
    return [{"file_name": str(file)} for file in find_images(files)] or DatasetCatalog.get(dataset)[:number]


def write_alignment_report(
    networks: Sequence[Network], records: Sequence[dict], folder: str | Path, *, least_score: float = 0.5
) -> Path:
    """Write ``index.html`` and its pictures as files: ``<image>_predictions.png``; ``<image>_errors.png`` where there
    is ground truth; and for each network ``<image>_<network>.png`` (its alignments) and, where they move samples,
    ``<image>_<network>_field.png`` (where to).

    Args:
        networks: one or more, drawn side by side; the errors of the others are compared with those of the first.
        records: records from ``choose_records``.
        folder: made if it does not exist.
        least_score: lowest score of instances that are drawn.

    Returns:
        Path of the page.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = " and ".join(n.name for n in networks)
    page = Page(
        f"Alignment in {names}",
        f"Maps before and after each alignment are the {REDUCTION}, before and after on one colour scale. Offsets are "
        "means over taps and groups, weighted by their strength, in pixels of the network's input. Hues are directions "
        "(see the wheel), and arrows point to where samples come from.",
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
    truth = None
    if "annotations" in record or "sem_seg_file_name" in record:
        cfg = networks[0].cfg
        truth = from_labels(record, cfg.DATASETS.TEST[0], ignore_value=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE)
    shown = [*found, *([("ground truth", truth)] if truth else [])]
    row = [Picture(paint_segments(image, segments, scale=scale, labels=True), name) for name, segments in shown]
    row.append(Picture(enlarge(image, scale), "image"))
    page.section(stem)
    page.legend(_legend([segments for _, segments in shown]))
    page.pictures([row], columns=len(row))
    _save(sheet([row]), folder / f"{stem}_predictions.png")
    if truth is not None and all(segments.extent != "boxes" for _, segments in shown):
        row = _error_row(image, found, truth, scale=scale)
        page.text(_ERRORS + (_CHANGES if len(found) > 1 else ""))
        page.pictures([row], columns=len(row))
        _save(sheet([row]), folder / f"{stem}_errors.png")
    for network, view in zip(networks, views):
        name = re.sub(r"[^\w.-]+", "_", network.name)  # a name may be any text, a file's may not
        rows = [alignment_row(a, view.seen, scale=_scale(view.seen)) for a in view.alignments]
        page.text(f"Alignments of {network.name}, coarsest first:")
        page.pictures(rows, columns=max(map(len, rows)))
        _save(sheet(rows), folder / f"{stem}_{name}.png")
        if row := field_row(view.alignments, view.seen, scale=_scale(view.seen)):
            row.insert(0, Picture(enlarge(view.seen, _scale(view.seen)), "image"))
            row.append(Picture(paint_segments(image, view.found, scale=scale), network.name))
            _save(sheet([row]), folder / f"{stem}_{name}_field.png")


def _error_row(
    image: np.ndarray, found: Sequence[tuple[str, Segments]], truth: Segments, *, scale: int
) -> list[Picture]:
    """Figure 6 of SFNet: image, errors of each network, what each but the first improves and worsens, ground truth."""
    all_errors = [(name, find_errors(segments, truth)) for name, segments in found]
    row = [
        Picture(paint_errors(errors, truth, scale=scale), f"{name}: {errors.accuracy:.1f} % of pixels right")
        for name, errors in all_errors
    ]
    base_name, base = all_errors[0]
    for name, errors in all_errors[1:]:
        change = find_change(base, errors)
        better, worse = (change.percent(part) for part in (change.improved, change.worsened))
        who = f"{name} against {base_name}: " if len(all_errors) > 2 else ""
        caption = f"{who}{better:.1f} % improved (blue), {worse:.1f} % worsened (orange)"
        row.append(Picture(paint_change(image, change, scale=scale), caption))
    row.insert(0, Picture(enlarge(image, scale), "image"))
    return [*row, Picture(paint_segments(image, truth, scale=scale), "ground truth")]


def _legend(all_found: Sequence[Segments]) -> list[tuple[str, str]]:
    colors = {s.name: to_hex(s.class_color) for found in all_found for s in found.segments.values()}
    return sorted(colors.items())


def _scale(image: np.ndarray) -> int:
    return max(1, round(WANTED_SIZE / max(image.shape[:2])))


def _save(picture: np.ndarray, path: Path) -> None:
    Image.fromarray(picture).save(path, optimize=True)
