"""Predictions of a network on many images: files, pictures, and one HTML page to look through."""

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from detectron2.data.detection_utils import convert_image_to_rgb
from PIL import Image
from tqdm import tqdm

from ..data.reading import BadImageError, read_image
from ..inference.predictor import Predictor, batches_of_one_shape
from ..inference.results import ResultFiles
from .page import Page
from .paint import paint_segments
from .segments import from_prediction
from .sheet import Picture

#: The largest number of pictures in the page. The page contains its pictures, and browsers are slow with many.
SHOWN_ON_PAGE = 100
#: Longer side, in pixels, of pictures on the page; files have the size of their image.
PAGE_SIZE = 640


@dataclass
class Summary:
    """What :func:`predict_images` did."""

    folder: Path
    images: int = 0
    seconds: float = 0.0  #: from the first file to the last result
    network_seconds: float = 0.0  #: of these, in the network, post-processing included
    broken: list[str] = field(default_factory=list)  #: one sentence for each image that was left out
    page: Path | None = None

    def text(self) -> str:
        """What a command prints at its end."""
        if not self.images:
            return f"No image was predicted; {self.folder / 'predictions.json'} is empty."
        rate, network = self.images / self.seconds, self.network_seconds / self.images
        lines = [
            f"{self.images} images in {self.seconds:.1f} s: {rate:.2f} images per second with reading and writing, "
            f"{1000 * network:.0f} ms per image in the network (with its post-processing, without a warm-up).",
            f"Results: {(self.folder / 'predictions.json').resolve()}",
        ]
        if self.page:
            lines.append(f"{self.page.resolve()}: open it in any browser")
        return "\n".join(lines)


def predict_images(
    predictor: Predictor,
    images: Sequence[Path],
    folder: str | Path,
    *,
    least_score: float = 0.5,
    batch: int = 1,
    pictures: bool = True,
) -> Summary:
    """Predict images and write the results to ``folder``.

    Writes what :class:`ResultFiles` describes; with ``pictures`` also ``<image>.png``, the image with its predictions
    drawn on it, and ``index.html``.

    Args:
        predictor: the network.
        images: files; those that cannot be read are left out and named in the summary.
        folder: made if need be.
        least_score: least score of objects that are kept and drawn, 0 to 1.
        batch: number of images of one shape that the network gets together.
        pictures: whether pictures and the page are made.
    """
    cfg = predictor.cfg
    dataset = cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else ""
    summary = Summary(Path(folder))
    files = ResultFiles(folder, dataset=dataset, least_score=least_score)
    names = dict(zip(images, unique_names(images)))
    page = Page("Predictions", f"{len(images)} images; objects with a score of at least {least_score:g} are drawn.")
    start = time.perf_counter()
    with tqdm(total=len(images), unit="image", mininterval=0.5) as bar:
        for samples in batches_of_one_shape(_samples(predictor, images, summary, bar), batch):
            outputs = _timed(predictor, samples, summary)
            for sample, output in zip(samples, outputs):
                path = sample["path"]
                entry = files.add(names[path], str(path), output)
                if pictures:
                    shown = convert_image_to_rgb(read_image(str(path), cfg.INPUT.FORMAT), cfg.INPUT.FORMAT)
                    found = from_prediction(output, dataset, least_score=least_score)
                    drawn = paint_segments(np.ascontiguousarray(shown, np.uint8), found, scale=1, labels=True)
                    entry["picture"] = f"{names[path]}.png"
                    Image.fromarray(drawn).save(summary.folder / entry["picture"])
                    if summary.images < SHOWN_ON_PAGE:
                        page.section(names[path])
                        row = [Picture(_small(shown), "image"), Picture(_small(drawn), "prediction")]
                        page.pictures([row], columns=2, columns_on_phone=1)
                summary.images += 1
                bar.update()
    summary.seconds = time.perf_counter() - start
    files.close()
    if pictures and summary.images:
        if summary.images > SHOWN_ON_PAGE:
            page.text(f"The first {SHOWN_ON_PAGE} of {summary.images} images; all pictures are in the folder.")
        summary.page = summary.folder / "index.html"
        page.write(summary.page)
    return summary


def unique_names(images: Sequence[Path]) -> list[str]:
    """Stems of files; where two are alike, the second gets "-2" behind it, and so on."""
    seen: set[str] = set()
    names = []
    for image in images:
        tries = itertools.chain([image.stem], (f"{image.stem}-{n}" for n in itertools.count(2)))
        name = next(name for name in tries if name not in seen)
        seen.add(name)
        names.append(name)
    return names


def _samples(predictor: Predictor, images: Sequence[Path], summary: Summary, bar: tqdm) -> Iterator[dict]:
    for path in images:
        try:
            yield predictor.sample(path) | {"path": path}
        except (BadImageError, FileNotFoundError) as error:
            summary.broken.append(str(error))
            bar.update()


def _timed(predictor: Predictor, samples: list[dict], summary: Summary) -> list[dict]:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    outputs = predictor.predict(samples)  # its outputs are on the CPU, so the GPU has finished
    summary.network_seconds += time.perf_counter() - start
    return outputs


def _small(picture: np.ndarray) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(picture, np.uint8))
    image.thumbnail((PAGE_SIZE, PAGE_SIZE))
    return np.asarray(image)
