"""The page of the demo: the table, predictions beside the ground truth, what alignment does, loss curves."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog
from PIL import Image

from ..engine.trainer import Trainer
from ..visualization.alignment import REDUCTION
from ..visualization.color import to_hex
from ..visualization.line_chart import line_chart
from ..visualization.page import Page
from ..visualization.paint import enlarge, frame, most_different_window, paint_segments
from ..visualization.segments import Segments, from_labels
from ..visualization.sheet import Picture
from ..visualization.view import View, alignment_row, look
from .networks import BETTER, HEADER, SCORES, DemoNetwork, score_of, threads

SCALE = 3  #: screen pixels per image pixel in pictures of whole images
SEEN_SCALE = 2  #: the same for images as the networks see them
ZOOM = 8  #: the same in magnified windows
WINDOW = (60, 72)  #: (H, W) of those, in image pixels
LOSS_TITLES = {
    "total_loss": "all losses together",
    "loss_sem_seg": "regions",
    "loss_rpn_cls": "object or not, proposals",
    "loss_rpn_loc": "boxes, proposals",
    "loss_cls": "classes, objects",
    "loss_box_reg": "boxes, objects",
    "loss_mask": "masks",
}


@dataclass
class Sample:
    """One image of the test set with everything that is drawn of it."""

    image: np.ndarray
    truth: Segments
    views: list[View]  #: one for each network, the one that aligns last

    @property
    def found(self) -> list[Segments]:
        return [view.found for view in self.views]

    def difference(self) -> tuple[int, tuple[int, int, int, int]]:
        """The window where the two networks' classes differ in most pixels, after the number of these pixels."""
        a, b = class_maps(self.found[0], self.found[-1])
        y0, x0, y1, x1 = box = most_different_window(a, b, WINDOW)
        return int((a[y0:y1, x0:x1] != b[y0:y1, x0:x1]).sum()), box


def class_maps(*all_found: Segments) -> list[np.ndarray]:
    """(H,W) class numbers of each, with the same numbers for all; -1 for no segment."""
    names = {s.name for found in all_found for s in found.segments.values()}
    numbers = {name: i for i, name in enumerate(sorted(names))}
    maps = []
    for found in all_found:
        table = np.full(len(found.segments) + 1, -1)
        for key, segment in found.segments.items():
            table[key] = numbers[segment.name]
        maps.append(table[found.labels])
    return maps


def collect(networks: Sequence[DemoNetwork], *, limit: int) -> list[Sample]:
    """The first ``limit`` images of the test set as all networks see them."""
    dataset = networks[0].cfg.DATASETS.TEST[0]
    records = DatasetCatalog.get(dataset)
    loaders = [Trainer.build_test_loader(t.cfg, dataset) for t in networks]
    samples = []
    for record, *batches in itertools.islice(zip(records, *loaders), limit):
        views = [
            look(t.model, batch[0], dataset=dataset, image_format=t.cfg.INPUT.FORMAT)
            for t, batch in zip(networks, batches)
        ]
        image = np.asarray(Image.open(record["file_name"]).convert("RGB"))
        samples.append(Sample(image, from_labels(record, dataset), views))
    return samples


def write_report(networks: Sequence[DemoNetwork], path: str | Path, *, seconds: float, command: str) -> Path:
    """Write the page.

    Args:
        networks: the networks of ``run_demo``; the last one aligns.
        path: the HTML file to write.
        seconds: the time since the start of the demo.
        command: the command that made the page, which the page shows.
    """
    samples = collect(networks, limit=40)
    base, ours = networks[0], networks[-1]
    page = Page(
        f"{ours.name} and {base.name}, trained alike",
        f"Panoptic networks with {ours.name} and {base.name}, trained from scratch for "
        f"{base.cfg.SOLVER.MAX_ITER} iterations on generated shapes. "
        "Seed, data, schedule and heads are the same. Only the neck differs.",
    )
    page.section("Scores", score_text(networks))
    page.table(HEADER, [t.row() for t in networks], best=BETTER)
    page.text(
        "One seed and a minute or two do *not* rank the two methods: another seed can turn the order around. "
        "To rank them, run the full schedules on COCO and Cityscapes, whose configs are in `configs/fapn`."
    )
    _predictions(page, networks, samples)
    _differences(page, networks, samples)
    _alignment(page, ours, samples)
    _losses(page, networks)
    _how(page, networks, seconds=seconds, command=command)
    return page.write(path)


def score_text(networks: Sequence[DemoNetwork]) -> str:
    """Two sentences on the differences of the scores."""
    base, ours = networks[0], networks[-1]
    gains = {}
    for name in SCORES:
        gains[name] = round(score_of(ours.results, name), 1) - round(score_of(base.results, name), 1)
    said = {
        "is ahead in": [f"{n} (+{g:.1f})" for n, g in gains.items() if g > 0.05],
        "is level in": [n for n, g in gains.items() if abs(g) <= 0.05],
        "is behind in": [f"{n} (-{-g:.1f})" for n, g in gains.items() if g < -0.05],
    }
    clauses = [f"{verb} {', '.join(names)}" for verb, names in said.items() if names]
    more = 100 * (ours.parameters / base.parameters - 1)
    return (
        f"In this run {ours.name} {'; it '.join(clauses)}. It has {more:+.0f}% parameters and takes "
        f"{ours.milliseconds / base.milliseconds:.2f} times as long for an image."
    )


def _predictions(page: Page, networks: Sequence[DemoNetwork], samples: Sequence[Sample], *, number: int = 6) -> None:
    page.section(
        "Predictions and ground truth",
        f"The first {min(number, len(samples))} test images. Each object has an outline and a tone of its class's "
        "colour. Black pixels have no label from the network.",
    )
    page.legend(legend_of(samples))
    rows = []
    for sample in samples[:number]:
        row = [Picture(paint_segments(sample.image, f, scale=SCALE), t.name) for t, f in zip(networks, sample.found)]
        row.append(Picture(paint_segments(sample.image, sample.truth, scale=SCALE), "ground truth"))
        rows.append([*row, Picture(enlarge(sample.image, SCALE), "image")])
    page.pictures(rows, columns=4)


def legend_of(samples: Sequence[Sample]) -> list[tuple[str, str]]:
    """(name, CSS colour) of every class in the ground truth, objects first."""
    seen = {s.name: s for sample in samples for s in sample.truth.segments.values()}
    ordered = sorted(seen.values(), key=lambda s: (not s.is_thing, s.name))
    return [(s.name, to_hex(s.class_color)) for s in ordered]


def _differences(page: Page, networks: Sequence[DemoNetwork], samples: Sequence[Sample], *, number: int = 4) -> None:
    page.section(
        "Where they differ most",
        f"The {WINDOW[1]} x {WINDOW[0]} pixels in which the two networks' classes differ most, in the {number} of "
        f"{len(samples)} images that differ most. Which network is right plays no part in the choice.",
    )
    ranked = sorted(samples, key=lambda s: -s.difference()[0])[:number]
    rows = []
    for sample in ranked:
        box = sample.difference()[1]
        row = [Picture(_cut(sample.image, f, box), t.name) for t, f in zip(networks, sample.found)]
        row.append(Picture(_cut(sample.image, sample.truth, box), "ground truth"))
        place = frame(enlarge(sample.image, SCALE), tuple(SCALE * v for v in box))
        rows.append([*row, Picture(place, "where in the image")])
    page.pictures(rows, columns=4)


def _cut(image: np.ndarray, found: Segments, box: tuple[int, int, int, int]) -> np.ndarray:
    y0, x0, y1, x1 = box
    part = Segments(found.labels[y0:y1, x0:x1], found.segments)
    return paint_segments(image[y0:y1, x0:x1], part, scale=ZOOM, strength=0.5)


def _alignment(page: Page, network: DemoNetwork, samples: Sequence[Sample], *, number: int = 3) -> None:
    last = samples[0].views[-1].alignments[-1]
    page.section(
        f"Features before and after alignment ({network.name})",
        f"Figure 6 of the paper for the last alignment, {last.title}: the upsampled map that goes in, and the aligned "
        f"map that comes out, both as the {REDUCTION} on one colour scale. Offsets are where the deformable "
        "convolution takes its samples from: a mean over taps and groups, weighted by their strength. They are drawn "
        "as arrows and in colours, whose hue is the direction (see the wheel) and whose strength is the length in "
        "image pixels.",
    )
    rows = []
    for sample in samples[:number]:
        view = sample.views[-1]
        before, after, *offsets = alignment_row(view.alignments[-1], view.seen, scale=SEEN_SCALE)
        truth = Picture(paint_segments(sample.image, sample.truth, scale=SCALE), "ground truth")
        rows += [[Picture(enlarge(sample.image, SCALE), "image"), before, after], [truth, *offsets]]
    page.pictures(rows, columns=3, columns_on_phone=3)
    view = samples[0].views[-1]
    page.text(f"All {len(view.alignments)} alignments of the first image, coarsest first:")
    page.pictures([alignment_row(r, view.seen, scale=SEEN_SCALE) for r in view.alignments], columns=4)


def _losses(page: Page, networks: Sequence[DemoNetwork]) -> None:
    page.section("Loss curves", "Training losses. Each value is the median of the last 20 iterations.")
    page.legend([(t.name, f"var(--{color})") for t, color in zip(networks, ("first", "second"))])
    charts = []
    for key, title in LOSS_TITLES.items():
        lines = {t.name: t.losses[key] for t in networks if t.losses.get(key)}
        if lines:
            charts.append((title, line_chart(lines, title=title, x_label="iteration")))
    page.charts(charts)


def _how(page: Page, networks: Sequence[DemoNetwork], *, seconds: float, command: str) -> None:
    record, cfg = networks[0].record, networks[0].cfg
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items() if version)
    page.section("How this page was made")
    page.facts(
        [
            ("command", f"`{command}`"),
            ("time", f"{seconds:.0f} s: " + ", ".join(f"{t.seconds:.0f} s for {t.name}" for t in networks)),
            ("device", f"{cfg.MODEL.DEVICE}, {record['device']}, {threads()} threads"),
            ("data", f"`{cfg.DATASETS.TRAIN[0]}`, scored on `{cfg.DATASETS.TEST[0]}`, both generated"),
            (
                "schedule",
                f"{cfg.SOLVER.MAX_ITER} iterations of {cfg.SOLVER.IMS_PER_BATCH} images, {cfg.SOLVER.OPTIMIZER}, "
                f"learning rate {cfg.SOLVER.BASE_LR:g}, seed {cfg.SEED}",
            ),
            ("configs", ", ".join(f"`configs/{t.record['config_file']}`" for t in networks)),
            ("versions", versions),
            ("commit", record["commit"]),
            ("ms per image", "median over test images, one at a time, the two networks taking turns"),
            ("box AP, mask AP", "COCO's, over IoU 0.50 to 0.95, of objects"),
            ("PQ", "panoptic quality, of objects and regions"),
            ("mIoU", "of the semantic branch: sky, grass, sand and, as one class, all objects"),
        ]
    )
