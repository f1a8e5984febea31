"""COCO's layout, with the few real photographs of tests/reference/images or with noise."""

import json
import shutil
from pathlib import Path

import numpy as np
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from PIL import Image


def write_coco(root: Path, real_images: Path) -> Path:
    """``root/coco`` with the same four photographs as train2017 and as val2017. Returns ``root`` (the data root)."""
    (root / "coco" / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        shutil.copytree(real_images / "photographs", root / "coco" / split)
        shutil.copy(real_images / "instances.json", root / "coco" / "annotations" / f"instances_{split}.json")
    return root


def write_coco_panoptic(root: Path, *, split: str, images: int = 2, size: tuple[int, int] = (96, 128)) -> None:
    """COCO's panoptic layout with noise: in each image a person on a road below the sky, and an unlabelled corner.

    Args:
        root: the data root; files are below ``root / "coco"``.
        split: "train" or "val".
        images: the number of images.
        size: (H, W) in pixels.
    """
    id_of = {category["name"]: category["id"] for category in COCO_CATEGORIES}
    person, road, sky = id_of["person"], id_of["road"], id_of["sky-other-merged"]
    stuff = sorted(category["id"] for category in COCO_CATEGORIES if not category["isthing"])
    coco, name = root / "coco", f"{split}2017"
    folders = [coco / folder for folder in (name, f"panoptic_{name}", f"panoptic_stuff_{name}", "annotations")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    pictures, panoptic, semantic, annotations = folders
    (h, w), rng = size, np.random.default_rng(len(split))
    records, objects, segments = [], [], []
    for n in range(1, images + 1):
        file, top, left = f"{n:012d}", h // 4 + n, w // 4
        records.append({"id": n, "file_name": f"{file}.jpg", "height": h, "width": w})
        box = [left, top, w // 3, h // 2]
        ids = np.full((h, w), 1, np.uint8)
        ids[h // 2 :] = 2
        ids[top : top + box[3], left : left + box[2]] = 3
        ids[:8, :8] = 0
        Image.fromarray(rng.integers(0, 255, (h, w, 3), np.uint8)).save(pictures / f"{file}.jpg")
        Image.fromarray(np.stack([ids, 0 * ids, 0 * ids], axis=-1)).save(panoptic / f"{file}.png")
        # 0: things; then the stuff classes in the order of their ids; 255: unlabelled
        classes = np.array([255, stuff.index(sky) + 1, stuff.index(road) + 1, 0], np.uint8)
        Image.fromarray(classes[ids]).save(semantic / f"{file}.png")
        x0, y0, x1, y1 = box[0], box[1], box[0] + box[2], box[1] + box[3]
        common = {"bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        polygon = [[x0, y0, x1, y0, x1, y1, x0, y1]]
        objects.append({"id": n, "image_id": n, "category_id": person, "segmentation": polygon, **common})
        parts = [
            {"id": number, "category_id": category, "iscrowd": 0, "area": int((ids == number).sum()), "bbox": box}
            for number, category in ((1, sky), (2, road), (3, person))
        ]
        segments.append({"image_id": n, "file_name": f"{file}.png", "segments_info": parts})
    things = [category for category in COCO_CATEGORIES if category["isthing"]]
    for kind, found, categories in (("instances", objects, things), ("panoptic", segments, COCO_CATEGORIES)):
        content = {"images": records, "annotations": found, "categories": categories}
        (annotations / f"{kind}_{name}.json").write_text(json.dumps(content))
