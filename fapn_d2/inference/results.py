"""Predictions as files: objects as COCO's JSON, regions as label PNGs, panoptic results as panoptic PNGs."""

import json
from pathlib import Path

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from PIL import Image

from ..data.panoptic_png import write_segment_ids
from ..files import write_atomically


class ResultFiles:
    """Collects the predictions of many images in a folder.

    It writes ``<image>_labels.png`` with class numbers and ``<image>_panoptic.png`` with segment ids, if the network
    has these outputs, and one ``predictions.json`` for all images. For each image, that file has the name, the
    size, the objects in COCO's format, the proposed masks and the panoptic segments. Class numbers are the network's
    and count from 0. Names of classes are added if the data set has them.

    Args:
        folder: the folder to write to; created if it does not exist.
        dataset: a name in Detectron2's ``MetadataCatalog``; "" where class names are unknown.
        least_score: the score below which objects are left out.
    """

    def __init__(self, folder: str | Path, *, dataset: str = "", least_score: float = 0.0):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        metadata = MetadataCatalog.get(dataset) if dataset else None
        self._things = list(metadata.get("thing_classes") or []) if metadata else []
        self._stuff = list(metadata.get("stuff_classes") or []) if metadata else []
        self._least_score = least_score
        self._images: list[dict] = []

    def add(self, name: str, file_name: str, output: dict) -> dict:
        """Write the PNGs of one image and keep the rest for ``predictions.json``.

        Args:
            name: the stem of the files to write.
            file_name: the path of the image.
            output: the output of ``Predictor`` for the image.

        Returns:
            The image's entry in ``predictions.json``.

        Raises:
            ValueError: there are more than 65,536 classes.
        """
        entry: dict = {"file_name": file_name}
        if "instances" in output:
            found = output["instances"]
            entry["height"], entry["width"] = found.image_size
            kept = found[found.scores >= self._least_score]
            objects = instances_to_coco_json(kept, 0)
            for made in objects:
                del made["image_id"]
                made["category"] = _name(self._things, made["category_id"])
            entry["objects"] = objects
        if "proposals" in output and output["proposals"].has("proposal_masks"):
            found = output["proposals"]
            entry["height"], entry["width"] = found.image_size
            scores = found.objectness_logits.sigmoid()
            kept = scores >= self._least_score
            entry["proposals"] = [
                {"score": score, "segmentation": {**mask, "counts": mask["counts"].decode()}}
                for score, mask in zip(scores[kept].tolist(), found.proposal_masks[kept].run_lengths())
            ]
        if "sem_seg" in output:
            labels = output["sem_seg"].argmax(dim=0).numpy()
            entry["height"], entry["width"] = labels.shape
            entry["labels"] = f"{name}_labels.png"
            Image.fromarray(_smallest(labels, len(output["sem_seg"]))).save(self.folder / entry["labels"])
        if "panoptic_seg" in output:
            ids, segments = output["panoptic_seg"]
            entry["height"], entry["width"] = ids.shape
            entry["panoptic"] = f"{name}_panoptic.png"
            write_segment_ids(str(self.folder / entry["panoptic"]), ids.numpy().astype(np.int64))
            entry["segments"] = [
                {
                    "id": int(s["id"]),
                    "category_id": int(s["category_id"]),
                    "isthing": bool(s["isthing"]),
                    "category": _name(self._things if s["isthing"] else self._stuff, int(s["category_id"])),
                }
                for s in segments or ()
            ]
        self._images.append(entry)
        return entry

    def close(self) -> Path:
        """Write ``predictions.json``; returns its path."""
        path = self.folder / "predictions.json"
        content = {"thing_classes": self._things, "stuff_classes": self._stuff, "images": self._images}
        write_atomically(str(path), lambda file: file.write(json.dumps(content, indent=1).encode()))
        return path


def _name(names: list[str], number: int) -> str:
    return names[number] if number < len(names) else f"class {number}"


def _smallest(labels: np.ndarray, classes: int) -> np.ndarray:
    if classes > 2**16:
        raise ValueError(f"{classes} classes do not fit a PNG of 16 bits")
    return labels.astype(np.uint8 if classes <= 2**8 else np.uint16)
