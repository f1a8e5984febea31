"""Generated ground truth and predictions with the image sizes and numbers of objects of the benchmarks, on disk."""

from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from ..data.panoptic_png import write_segment_ids
from ..evaluation.cityscapes.counts import label_table

#: Stem of the first street scene.
FIRST = "town_000000_000019"
_STUFF = (7, 8, 11, 12, 13, 17, 20, 21, 22, 23, 4)
_OBJECTS = (24, 24, 25, 26, 26, 26, 27, 28, 33)


def street_scenes(folder: Path, images: int, size: tuple[int, int]) -> list[Path]:
    """Files of ``images`` scenes: ``<stem>_gtFine_labelIds.png``, ``<stem>_gtFine_instanceIds.png`` and
    ``<stem>_pred.png``, all with label ids; returns the stems.

    Each has regions of stuff, 80 poles and signs, and 40 objects. Predictions are the ground truth moved by three
    pixels, with errors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stems = [folder / f"town_{number:06d}_000019" for number in range(images)]
    for number, stem in enumerate(stems):
        rng = np.random.default_rng(number)
        labels = rng.choice(_STUFF, (8, 16)).astype(np.uint8)
        labels = cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST)
        instances = labels.astype(np.uint16)
        for _ in range(80):
            _ellipse(rng, (labels, instances), (int(rng.choice((17, 20))),) * 2, (0.002, 0.06))
        for counter in range(40):
            label = int(rng.choice(_OBJECTS))
            _ellipse(rng, (labels, instances), (label, 1000 * label + counter), (0.01, 0.15))
        guess = np.roll(np.where(label_table().ignored[labels], 11, labels), 3, axis=1).astype(np.uint8)
        for _ in range(60):
            _ellipse(rng, (guess,), (int(rng.choice(label_table().label_id)),), (0.005, 0.05))
        for kind, image in (("gtFine_labelIds", labels), ("gtFine_instanceIds", instances), ("pred", guess)):
            Image.fromarray(image).save(f"{stem}_{kind}.png")
    return stems


def panoptic_pairs(folder: Path, images: int, size: tuple[int, int]) -> list[tuple[dict, dict]]:
    """(true, predicted) annotations of ``images`` images with twelve segments, their PNGs in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = []
    for number in range(images):
        rng = np.random.default_rng(number)
        ids = rng.choice(256**3 - 1, 13, replace=False) + 1
        ids[0] = 0
        truth = ids[cv2.resize(rng.integers(0, 13, (5, 6)).astype(np.uint8), size[::-1], interpolation=0)]
        guess = np.roll(truth, 4, axis=1)
        annotations = []
        for kind, image in (("true", truth), ("found", guess)):
            name = f"{kind}_{number}.png"
            write_segment_ids(str(folder / name), image)
            found, areas = np.unique(image, return_counts=True)
            segments = [
                {"id": int(i), "category_id": int(i) % 133 + 1, "iscrowd": 0, "area": int(a)}
                for i, a in zip(found, areas)
                if i
            ]
            annotations.append({"image_id": number, "file_name": name, "segments_info": segments})
        pairs.append(tuple(annotations))
    return pairs


def coco_boxes(images: int) -> tuple[dict, list[dict]]:
    """COCO annotations with 7 boxes per image and 80 classes, and 20 detections per image, half of them near a box."""
    rng = np.random.default_rng(0)
    true, found = [], []
    for image in range(1, images + 1):
        corners, sides = rng.uniform(0, 400, (7, 2)), rng.uniform(5, 200, (7, 2))
        boxes, classes = np.concatenate([corners, sides], axis=1), rng.integers(1, 81, 7)
        for box, label in zip(boxes.tolist(), classes.tolist()):
            area = box[2] * box[3]
            true.append({"image_id": image, "category_id": label, "bbox": box, "area": area, "iscrowd": 0})
        near = rng.integers(0, 7, 20)
        moved = boxes[near] + rng.normal(0, 6, (20, 4)) * [1, 1, 0.2, 0.2]
        labels = np.where(rng.random(20) < 0.5, classes[near], rng.integers(1, 81, 20))
        for box, label, score in zip(np.maximum(moved, 1).tolist(), labels.tolist(), rng.random(20).tolist()):
            found.append({"image_id": image, "category_id": label, "bbox": box, "score": score})
    annotations = {
        "images": [{"id": i, "height": 640, "width": 640} for i in range(1, images + 1)],
        "annotations": [{"id": i, **annotation} for i, annotation in enumerate(true, start=1)],
        "categories": [{"id": i, "name": str(i)} for i in range(1, 81)],
        "info": {},
    }
    return annotations, found


def box_proposals(annotations: dict, per_image: int) -> list[tuple[int, Instances]]:
    """(image id, proposals) for the annotations of :func:`coco_boxes`: half of the proposals are near an object."""
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([a["bbox"] for a in annotations["annotations"]]).reshape(len(annotations["images"]), -1, 4)
    found = []
    for image, own in zip(annotations["images"], boxes):
        near = own[torch.randint(len(own), (per_image // 2,), generator=generator)]
        near = near + 8 * torch.randn(near.shape, generator=generator)
        others = 400 * torch.rand(per_image - len(near), 4, generator=generator)
        corners, sides = torch.cat([near, others]).split(2, dim=1)
        instances = Instances((image["height"], image["width"]))
        instances.proposal_boxes = Boxes(torch.cat([corners, corners + sides.clamp(min=1)], dim=1))
        instances.objectness_logits = torch.randn(per_image, generator=generator)
        found.append((image["id"], instances))
    return found


def _ellipse(rng: np.random.Generator, images: tuple, values: tuple, part: tuple[float, float]) -> None:
    """Draw the same ellipse on each image; ``part`` is the range of its axes as fractions of the height."""
    height, width = images[0].shape
    center = int(rng.integers(0, width)), int(rng.integers(0, height))
    axes = tuple(int(a) + 1 for a in rng.uniform(*part, 2) * height)
    angle = float(rng.uniform(0, 180))
    for image, value in zip(images, values):
        cv2.ellipse(image, center, axes, angle, 0, 360, value, -1)
