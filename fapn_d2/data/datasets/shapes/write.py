"""Writing scenes in COCO's instance, panoptic and semantic formats, and checking that the files agree."""

import json
import zlib
from pathlib import Path

import numpy as np
import pycocotools.mask as coco_mask
from PIL import Image
from tqdm import tqdm

from ...panoptic_png import id2rgb, rgb2id
from .paint import paint
from .polygons import mask_to_polygons
from .scene import Scene, compose
from .spec import STUFF, STUFF_IDS, THING_IDS, THINGS, categories, folder

_FOLDERS = ("image_root", "sem_seg_root", "panoptic_root", "stuff_root")


def write_split(root: Path, split: str, *, number: int, size: tuple[int, int], seed: int) -> None:
    """Draw ``number`` scenes of ``size`` (H, W) and write images, labels and JSON files of one split below ``root``.

    Each image has a random stream of its own, seeded by seed, split and number, so that a longer split begins with the
    images of a shorter one. NumPy guarantees that the stream of the legacy generator never changes.
    """
    for key in _FOLDERS:
        folder(root, split, key).mkdir(parents=True)
    images, instances, panoptic = [], [], []
    h, w = size
    for index in tqdm(range(number), desc=f"generating shapes ({split})", unit="image"):
        entropy = (seed, zlib.crc32(split.encode()), index)
        rng = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(entropy)))
        scene = compose(rng, size)
        image_id = index + 1
        stem = f"{image_id:06d}"
        images.append({"id": image_id, "file_name": f"{stem}.jpg", "height": h, "width": w})
        # Full colour resolution: otherwise the colour of thin things would be spread over two pixels.
        Image.fromarray(paint(rng, scene)).save(
            folder(root, split, "image_root") / f"{stem}.jpg", quality=95, subsampling=0
        )
        semantic, stuff_only = _labels(scene)
        Image.fromarray(semantic).save(folder(root, split, "sem_seg_root") / f"{stem}.png")
        Image.fromarray(stuff_only).save(folder(root, split, "stuff_root") / f"{stem}.png")
        ids, segments = _panoptic(scene)
        Image.fromarray(id2rgb(ids)).save(folder(root, split, "panoptic_root") / f"{stem}.png")
        panoptic.append({"image_id": image_id, "file_name": f"{stem}.png", "segments_info": segments})
        for i, thing in enumerate(scene.things):
            mask = scene.owner == i
            annotation = {"id": len(instances) + 1, "image_id": image_id, "category_id": THING_IDS[thing.kind]}
            instances.append(annotation | _extent(mask) | {"segmentation": mask_to_polygons(mask)})
    _write_json(folder(root, split, "json_file"), images, instances, categories()[: len(THINGS)], seed)
    _write_json(folder(root, split, "panoptic_json"), images, panoptic, categories(), seed)


def _write_json(path: Path, images: list, annotations: list, classes: list, seed: int) -> None:
    path.parent.mkdir(exist_ok=True)
    info = {"description": "shapes: generated scenes of fapn_d2", "seed": seed}
    content = {"info": info, "licenses": [], "images": images, "annotations": annotations, "categories": classes}
    path.write_text(json.dumps(content))


def _labels(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Two (H, W) uint8 label maps: all classes (things first), and stuff alone (0 where a thing is)."""
    hidden = scene.owner >= 0
    kinds = np.array([t.kind for t in scene.things] + [0], np.uint8)  # the last entry is for owner -1
    semantic = np.where(hidden, kinds[scene.owner], scene.stuff + np.uint8(len(THINGS)))
    return semantic, np.where(hidden, np.uint8(0), scene.stuff + np.uint8(1))


def _panoptic(scene: Scene) -> tuple[np.ndarray, list[dict]]:
    """(H, W) segment ids and their records. An id is the colour of the class, darkened until it is unique, so that the
    PNG is a meaningful picture."""
    ids = np.zeros(scene.stuff.shape, np.int64)
    segments: list[dict] = []
    colors = {c["id"]: c["color"] for c in categories()}
    regions = [(THING_IDS[t.kind], scene.owner == i) for i, t in enumerate(scene.things)]
    regions += [(STUFF_IDS[s], (scene.stuff == s) & (scene.owner < 0)) for s in range(len(STUFF))]
    for category, mask in regions:
        if not mask.any():
            continue
        color = np.array(colors[category])
        while (segment_id := int(rgb2id(color))) in {s["id"] for s in segments}:
            color = np.maximum(color - (14, 6, 10), 0)
        ids[mask] = segment_id
        segments.append({"id": segment_id, "category_id": category} | _extent(mask))
    return ids, segments


def _extent(mask: np.ndarray) -> dict:
    """Area in pixels, and the tight box as x, y, width, height."""
    y, x = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    box = [int(x[0]), int(y[0]), int(x[-1] - x[0] + 1), int(y[-1] - y[0] + 1)]
    return {"area": int(mask.sum()), "bbox": box, "iscrowd": 0}


def verify_split(root: Path, split: str) -> None:
    """Read one split and compare its four descriptions of every image pixel by pixel.

    Raises:
        ValueError: they differ; the message names the file.
    """
    instances = json.loads(folder(root, split, "json_file").read_text())
    panoptic = json.loads(folder(root, split, "panoptic_json").read_text())
    things: dict[int, list[dict]] = {}
    for annotation in instances["annotations"]:
        things.setdefault(annotation["image_id"], []).append(annotation)
    for image, record in zip(instances["images"], panoptic["annotations"], strict=True):
        labels = {}
        for key in _FOLDERS:
            path = folder(root, split, key) / (image["file_name"] if key == "image_root" else record["file_name"])
            labels[key] = np.asarray(Image.open(path))
            if labels[key].shape[:2] != (image["height"], image["width"]):
                raise ValueError(f"{path} has size {labels[key].shape[:2]}, its record says otherwise: {image}")
        semantic, stuff_only = labels["sem_seg_root"], labels["stuff_root"]
        seen = np.full(semantic.shape, -1)
        masks = [rgb2id(labels["panoptic_root"]) == s["id"] for s in record["segments_info"]]
        for segment, mask in zip(record["segments_info"], masks):
            seen[mask] = segment["category_id"] - 1
            if _extent(mask) != {k: segment[k] for k in ("area", "bbox", "iscrowd")}:
                raise ValueError(f"{split}/{record['file_name']}: segment {segment} does not match the PNG")
        if (seen != semantic).any() or (np.where(seen < len(THINGS), 0, seen - len(THINGS) + 1) != stuff_only).any():
            raise ValueError(f"{split}/{record['file_name']}: panoptic and semantic labels differ")
        for annotation, mask in zip(things.get(image["id"], []), masks):  # things come first among the segments
            rle = coco_mask.merge(coco_mask.frPyObjects(annotation["segmentation"], image["height"], image["width"]))
            if (coco_mask.decode(rle) != mask).any():
                raise ValueError(f"{split}/{image['file_name']}: annotation {annotation['id']} is not exact")
