"""COCO's boxes, masks and stuff: one JSON array in one zip.

Format: cocodataset.org, "Results Format". Boxes and masks are two files. pycocotools looks at the first entry only: if
that has a box, sizes of objects are the sizes of boxes, which changes APs, APm and APl of masks.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog
from detectron2.structures import Instances

from ...data.datasets.coco_stuff import CLASSES, labelled_ids
from ..sem_seg import class_map
from .json_stream import array_entries
from .writer import Limits, Part, Writer

#: The file that Detectron2's ``COCOEvaluator`` and this project's evaluator write.
KEPT_FILE = "coco_instances_results.json"
#: The first and last class of stuff, and the one that stands for all things.
STUFF_IDS, ALL_THINGS = range(92, 183), 183


class CocoObjects(Writer):
    """Boxes or masks of objects, depending on the subclass."""

    output = "instances"
    writes_json = True
    field: str

    def __init__(self, dataset_name: str, limits: Limits | None = None):
        super().__init__(dataset_name, limits)
        if not self.metadata.get("thing_dataset_id_to_contiguous_id"):
            DatasetCatalog.get(dataset_name)  # loading a COCO file tells which category_id each class has
        mapping = self.metadata.get("thing_dataset_id_to_contiguous_id")
        if not mapping:
            raise ValueError(f"{dataset_name} does not say which category_id each class has")
        self._dataset_id = {v: k for k, v in mapping.items()}

    def part(self, record: dict, output: dict) -> Part:
        instances = output["instances"].to("cpu")
        scores = instances.scores.tolist()
        kept = self.limits.kept(scores)
        fields = self._fields(instances[np.array(kept, np.int64)])
        entries = []
        for position, field in zip(kept, fields):
            number = int(instances.pred_classes[position])
            if number not in self._dataset_id:
                raise ValueError(
                    f"{record['file_name']}: the network predicts class {number}; {self.dataset_name} has the classes "
                    f"0..{len(self._dataset_id) - 1}"
                )
            entries.append(self._entry(record["image_id"], self._dataset_id[number], field, scores[position]))
        return Part(str(record["image_id"]), tuple(entries))

    def _entry(self, image_id: int, category_id: int, field, score: float) -> dict:
        entry = {"image_id": image_id, "category_id": category_id, self.field: field}
        return {**entry, "score": self.limits.score(score)}

    def _fields(self, instances: Instances) -> list:
        raise NotImplementedError

    def _kept_field(self, entry: dict):
        return entry[self.field]

    def kept_parts(self, folder: Path, records: Sequence[dict]) -> Iterator[Part]:
        """The parts from ``coco_instances_results.json``, which is read entry by entry.

        An image without an entry has no objects. The file does not show whether such an image was predicted.
        """
        path, wanted = folder / KEPT_FILE, {record["image_id"] for record in records}
        if not path.is_file():
            raise FileNotFoundError(f"{path} is absent: an evaluation on {self.dataset_name} leaves it there")
        seen = set()
        with open(path, "rb") as file:
            for image_id, group in itertools.groupby(array_entries(file), key=lambda entry: entry["image_id"]):
                if image_id in seen:
                    raise ValueError(f"{path}: the objects of image {image_id} are in two places; evaluate again")
                seen.add(image_id)
                if image_id in wanted:
                    yield self._kept_part(image_id, list(group), path)
        yield from (Part(str(i)) for i in sorted(wanted - seen))

    def _kept_part(self, image_id: int, group: list[dict], path: Path) -> Part:
        if lacking := [entry for entry in group if self.field not in entry]:
            raise ValueError(f"{path}: an object of image {image_id} has only {', '.join(lacking[0])}, no {self.field}")
        kept = self.limits.kept([entry["score"] for entry in group])
        chosen = (group[i] for i in kept)
        return Part(
            str(image_id),
            tuple(self._entry(image_id, e["category_id"], self._kept_field(e), e["score"]) for e in chosen),
        )


class CocoBoxes(CocoObjects):
    """``{"image_id", "category_id", "bbox": [x, y, width, height], "score"}`` for each object."""

    field = "bbox"

    def _fields(self, instances: Instances) -> list:
        corners = instances.pred_boxes.tensor.double().numpy()
        return [self._rounded([x, y, X - x, Y - y]) for x, y, X, Y in corners.tolist()]

    def _kept_field(self, entry: dict):
        return self._rounded(entry["bbox"])

    def _rounded(self, box: Iterable[float]) -> list[float]:
        x, y, width, height = (round(value, self.limits.box_decimals) for value in box)
        least = 10.0**-self.limits.box_decimals  # the server refuses a side of 0
        return [x, y, max(width, least), max(height, least)]


class CocoMasks(CocoObjects):
    """``{"image_id", "category_id", "segmentation": {"size", "counts"}, "score"}`` for each object."""

    field = "segmentation"

    def accepts(self, output: dict) -> bool:
        return super().accepts(output) and output["instances"].has("pred_masks")

    def _fields(self, instances: Instances) -> list:
        return [run_length(mask) for mask in instances.pred_masks.numpy()]


class CocoStuff(Writer):
    """``{"image_id", "category_id", "segmentation"}`` for each class of stuff in an image, 92..182; 183 is all things.

    The network has the 171 or 182 classes of COCO-Stuff-10K, or the 92 of the benchmark itself.
    """

    output = "sem_seg"
    writes_json = True

    def part(self, record: dict, output: dict) -> Part:
        scores = output["sem_seg"]
        table = _stuff_table(scores.shape[0], record["file_name"])
        classes = table[class_map(scores).cpu().numpy()]
        return Part(
            str(record["image_id"]),
            tuple(
                {"image_id": record["image_id"], "category_id": int(c), "segmentation": run_length(classes == c)}
                for c in np.unique(classes)
            ),
        )


def _stuff_table(classes: int, where: str) -> np.ndarray:
    """Class number of the network -> category id 92..183."""
    if classes == len(STUFF_IDS) + 1:
        return np.arange(STUFF_IDS.start, ALL_THINGS + 1)
    if classes not in CLASSES:
        raise ValueError(
            f"{where}: the network predicts {classes} classes; stuff is sent from networks with 171 or 182 classes "
            "(COCO-Stuff-10K) or with 92 (91 of stuff, then all things)"
        )
    ids = labelled_ids() if classes == 171 else np.arange(1, 183)
    return np.where(ids >= STUFF_IDS.start, ids, ALL_THINGS)


def run_length(mask: np.ndarray) -> dict:
    """COCO's compressed run lengths of an (H, W) mask, with text in "counts"."""
    code = mask_util.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode()}
