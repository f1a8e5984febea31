"""Cityscapes' instance level: for each image a text file and a mask for each of its lines.

A line is ``<mask file> <label id> <score>``, with single spaces; the file's path is relative to the text file.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ...messages import some
from ..cityscapes.files import image_key
from ..cityscapes.official import load
from .writer import Limits, Part, Writer, decoded, png


class CityscapesInstances(Writer):
    """``<city>_<sequence>_<frame>_pred.txt`` and 1-bit masks, which take less than half the space of 8 bits.

    Empty masks are left out, because the server ignores them.
    """

    output = "instances"
    writes_files = True

    def __init__(self, dataset_name: str, limits: Limits | None = None):
        super().__init__(dataset_name, limits)
        label_of = load("helpers.labels").name2label
        classes = list(self.metadata.thing_classes)
        if unknown := [name for name in classes if name not in label_of]:
            raise ValueError(f"{dataset_name}: {unknown[0]!r} is not a class of Cityscapes")
        self._label_ids = [label_of[name].id for name in classes]

    def accepts(self, output: dict) -> bool:
        return super().accepts(output) and output["instances"].has("pred_masks")

    def part(self, record: dict, output: dict) -> Part:
        instances = output["instances"].to("cpu")
        scores = instances.scores.tolist()
        objects = (
            (instances.pred_masks[i].numpy() > 0, self._label_ids[int(instances.pred_classes[i])], scores[i])
            for i in self.limits.kept(scores)
        )
        return self._part(record, objects)

    def _part(self, record: dict, objects: Iterator[tuple[np.ndarray, int, float]]) -> Part:
        key, lines, files = image_key(record["file_name"]), [], []
        for number, (mask, label_id, score) in enumerate(objects):
            if mask.any():
                files.append((f"{key}_{number:03d}.png", png(mask)))
                lines.append(f"{files[-1][0]} {label_id} {self.limits.score(score)}\n")
        return Part(str(record["image_id"]), files=((f"{key}_pred.txt", "".join(lines).encode()), *files))

    def kept_parts(self, folder: Path, records: Sequence[dict]) -> Iterator[Part]:
        """From ``cityscapes_instances/*_pred.txt`` and the masks that they name."""
        folder = folder / "cityscapes_instances"
        texts = [folder / f"{image_key(record['file_name'])}_pred.txt" for record in records]
        if missing := [text for text in texts if not text.is_file()]:
            raise FileNotFoundError(
                f"{len(missing)} of {len(texts)} predictions are absent ({some(missing)}): evaluate with "
                "TEST.KEEP_PREDICTIONS True"
            )
        for record, text in zip(records, texts):
            lines = [line.split(" ") for line in text.read_text().splitlines()]
            kept = self.limits.kept([float(score) for _, _, score in lines])
            chosen = (lines[i] for i in kept)
            yield self._part(record, ((decoded(folder / f) > 0, int(label), float(s)) for f, label, s in chosen))
