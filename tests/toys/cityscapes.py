"""A small tree in the official format of Cityscapes: random boxes, with their polygons, label ids and instance ids."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

STUFF = ("road", "sidewalk", "building", "vegetation", "sky", "terrain", "static", "ground", "parking")
OBJECTS = ("person", "rider", "car", "truck", "bicycle", "caravan", "cargroup", "persongroup", "license plate")


def make_tree(
    root: Path, *, split: str = "val", images: int = 4, size: tuple[int, int] = (96, 160), seed: int = 0
) -> list[Path]:
    """``root/leftImg8bit`` and ``root/gtFine`` with ``images`` images in two cities; returns the image files."""
    rng = np.random.default_rng(seed)
    files = []
    for number in range(images):
        city = ("here", "there")[number % 2]
        stem = f"{city}_{number:06d}_000019"
        image = root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png"
        truth = root / "gtFine" / split / city / f"{stem}_gtFine"
        for folder in (image.parent, truth.parent):
            folder.mkdir(parents=True, exist_ok=True)
        boxes = _boxes(rng, *size)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(image)
        labels, instances = _draw(boxes, *size)
        Image.fromarray(labels).save(f"{truth}_labelIds.png")
        Image.fromarray(instances).save(f"{truth}_instanceIds.png")
        objects = [{"label": name, "polygon": [[x, y], [X, y], [X, Y], [x, Y]]} for name, (x, y, X, Y) in boxes]
        Path(f"{truth}_polygons.json").write_text(
            json.dumps({"imgHeight": size[0], "imgWidth": size[1], "objects": objects})
        )
        files.append(image)
    return files


def _boxes(rng: np.random.Generator, height: int, width: int) -> list[tuple[str, tuple[int, int, int, int]]]:
    """Bands of stuff, then objects over them, some over others; corners (x, y) to (X, Y), both in the box."""
    boxes = [("road", (0, 0, width - 1, height - 1))]
    for y in range(0, height, height // 4):
        boxes.append((str(rng.choice(STUFF)), (0, y, width - 1, y + height // 4 - 1)))
    for _ in range(14):
        w, h = int(rng.integers(8, width // 4)), int(rng.integers(8, height // 3))
        x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
        boxes.append((str(rng.choice(OBJECTS)), (x, y, x + w - 1, y + h - 1)))
    return boxes


def _draw(boxes, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """As the official tools do: objects get 1000 * id + count of their label so far, groups the id alone, and label
    ids below 0 are left out."""
    from cityscapesscripts.helpers.labels import name2label

    labels, instances = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint16)
    count: dict[str, int] = {}
    for name, (x, y, X, Y) in boxes:
        group = name not in name2label
        label = name2label[name.removesuffix("group") if group else name]
        if label.id < 0:
            continue
        number = label.id
        if label.hasInstances and not group:
            number = 1000 * label.id + count.setdefault(name, 0)
            count[name] += 1
        labels[y : Y + 1, x : X + 1] = label.id
        instances[y : Y + 1, x : X + 1] = number
    return labels, instances
