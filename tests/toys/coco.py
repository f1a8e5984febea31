"""COCO's layout with the few real photographs of tests/reference/images."""

import shutil
from pathlib import Path


def write_coco(root: Path, real_images: Path) -> Path:
    """``root/coco`` with the same four photographs as train2017 and as val2017. Returns ``root`` (the data root)."""
    (root / "coco" / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        shutil.copytree(real_images / "photographs", root / "coco" / split)
        shutil.copy(real_images / "instances.json", root / "coco" / "annotations" / f"instances_{split}.json")
    return root
