"""Training samples as the network sees them, with their labels drawn on them: PNGs and a page."""

import logging
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data.detection_utils import convert_image_to_rgb
from PIL import Image
from tqdm import tqdm

from ..data import build_train_loader, check_datasets
from ..messages import nearest
from .page import Page
from .paint import paint_segments
from .segments import Classes, Segments, from_sample
from .sheet import Picture

logger = logging.getLogger(__name__)

#: With a class asked for, at most this many samples are drawn from the sampler per picture.
PATIENCE = 50


def browse(cfg: CfgNode, folder: str | Path, *, number: int = 20, only: str = "") -> Path:
    """Draw samples from the loader of a training, after augmentation, and write them with their labels.

    The loader has the config's sampler and augmentation, one image per batch and no further process. The caller seeds.

    Args:
        cfg: a config, which is not changed. The first of DATASETS.TRAIN gives class names and colours.
        folder: for ``<n>.png`` and ``index.html``; made if it does not exist.
        number: how many samples.
        only: a class; samples without it are left out.

    Returns:
        The path of the page.

    Raises:
        ValueError: the class does not exist, or none of the samples shows it; see :func:`build_train_loader`.
        FileNotFoundError: see :func:`check_datasets`.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS = 1, 0
    loader = iter(build_train_loader(cfg))  # says it where DATASETS.TRAIN is empty
    check_datasets(cfg, cfg.DATASETS.TRAIN)
    dataset = cfg.DATASETS.TRAIN[0]
    _check_class(dataset, only)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    page = Page(
        "Training samples", f"{dataset}: images after augmentation, as the network gets them, in training order."
    )
    shown = 0
    with tqdm(total=number, unit="image") as bar:
        for _ in range(number * (PATIENCE if only else 1)):
            (sample,) = next(loader)
            found = from_sample(sample, dataset, ignore_value=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE)
            if only and only not in _names(found):
                continue
            pixels = convert_image_to_rgb(sample["image"].permute(1, 2, 0).numpy(), cfg.INPUT.FORMAT)
            pixels = np.ascontiguousarray(pixels, np.uint8)
            drawn = paint_segments(pixels, found, scale=1, labels=True)
            shown += 1
            Image.fromarray(drawn).save(folder / f"{shown}.png")
            height, width = pixels.shape[:2]
            page.section(f"{shown}: {Path(sample['file_name']).name}", f"{height} x {width} pixels (H x W)")
            page.pictures(
                [[Picture(pixels, "input"), Picture(drawn, ", ".join(_names(found)) or "no labels")]], columns=2
            )
            bar.update()
            if shown == number:
                break
    if not shown:
        raise ValueError(f"none of {number * PATIENCE} samples of {dataset} shows the class {only}")
    return page.write(folder / "index.html")


def _names(found: Segments) -> list[str]:
    return sorted({segment.name for segment in found.segments.values()})


def _check_class(dataset: str, only: str) -> None:
    classes = Classes(dataset)
    known = [name for name, _ in (*classes.things, *classes.stuff)]
    if only and only not in known:
        raise ValueError(
            f"{dataset} has no class {only!r}{nearest(only, known, otherwise='; it has ' + ', '.join(known))}"
        )
