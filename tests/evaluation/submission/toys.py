"""Small validation splits in the official formats, and predictions on them."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES, _get_builtin_metadata
from detectron2.structures import Boxes, Instances
from PIL import Image

from fapn_d2.data.datasets.unlabelled import image_list
from fapn_d2.data.panoptic_png import write_segment_ids
from fapn_d2.evaluation.submission.checks.faults import Report
from fapn_d2.evaluation.submission.checks.submission import ImageList
from fapn_d2.evaluation.submission.pack import manifest, pack
from fapn_d2.evaluation.submission.parts import PartsFolder
from fapn_d2.evaluation.submission.tasks import task_named
from fapn_d2.evaluation.submission.validator import validate
from fapn_d2.evaluation.submission.writer import Limits
from tests.datasets.programs import run as run_program
from tests.toys.cityscapes import make_tree

COCO_SIZES = ((72, 96), (60, 81), (96, 64))
CITY_SIZE = (96, 160)


# ---- COCO ----


def make_coco(root: Path, seed: int = 0) -> str:
    """A COCO split with boxes, masks and panoptic labels below ``root``; its registered name."""
    import pycocotools.mask as mask_util

    rng = np.random.default_rng(seed)
    images, objects, segments = [], [], []
    (root / "images").mkdir(parents=True)
    (root / "panoptic").mkdir()
    things = [c for c in COCO_CATEGORIES if c["isthing"]]
    stuff = [c for c in COCO_CATEGORIES if not c["isthing"]]
    for number, (height, width) in enumerate(COCO_SIZES):
        image_id = 139 + 146 * number
        name = f"{image_id:012d}.jpg"
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(root / "images" / name)
        ids, found = np.zeros((height, width), np.int64), {}
        for band in range(3):  # bands of stuff, one of them void
            if band < 2:
                key = 1000 * (band + 1) + int(rng.integers(999))
                ids[band * height // 3 : (band + 1) * height // 3] = key
                found[key] = int(rng.choice([c["id"] for c in stuff[:4]]))
        for _ in range(6):
            h, w = rng.integers(10, 32, 2)
            y, x = int(rng.integers(0, height - h)), int(rng.integers(0, width - w))
            key = int(rng.integers(10_000, 256**3))
            ids[y : y + h, x : x + w] = key
            found[key] = int(rng.choice([c["id"] for c in things[:3] + things[-2:]]))
        entries = []
        for key, category in found.items():
            mask = ids == key
            if not mask.any():
                continue
            rows, columns = np.nonzero(mask)
            box = [int(columns.min()), int(rows.min()), int(np.ptp(columns) + 1), int(np.ptp(rows) + 1)]
            common = {"category_id": category, "area": int(mask.sum()), "bbox": box, "iscrowd": 0}
            entries.append({"id": key, **common})
            if key >= 10_000:
                code = mask_util.encode(np.asfortranarray(mask, np.uint8))
                code = {"size": code["size"], "counts": code["counts"].decode()}
                objects.append({"id": len(objects) + 1, "image_id": image_id, "segmentation": code, **common})
        png = name.replace("jpg", "png")
        write_segment_ids(str(root / "panoptic" / png), ids)
        segments.append({"image_id": image_id, "file_name": png, "segments_info": entries})
    info = {"images": images, "info": {}}
    listed = [{k: c[k] for k in ("id", "name")} for c in things]
    (root / "instances.json").write_text(json.dumps({**info, "annotations": objects, "categories": listed}))
    (root / "panoptic.json").write_text(json.dumps({**info, "annotations": segments, "categories": COCO_CATEGORIES}))
    name = f"toy_coco_submission_{root.parent.name}"
    DatasetCatalog.register(name, lambda: image_list(name))
    MetadataCatalog.get(name).set(
        json_file=str(root / "instances.json"),
        image_root=str(root / "images"),
        panoptic_json=str(root / "panoptic.json"),
        panoptic_root=str(root / "panoptic"),
        evaluator_type="coco_panoptic_seg",
        **_get_builtin_metadata("coco_panoptic_separated"),
    )
    return name


def coco_instances(name: str, seed: int = 1, decimals: int = 1) -> list[dict]:
    """True objects moved by some pixels, some lost, some doubled, some of another class; scores differ."""
    import pycocotools.mask as mask_util

    rng = np.random.default_rng(seed)
    truth = json.loads(Path(MetadataCatalog.get(name).json_file).read_text())
    contiguous = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
    outputs = []
    for image in truth["images"]:
        masks, classes = [], []
        for annotation in (a for a in truth["annotations"] if a["image_id"] == image["id"]):
            code = annotation["segmentation"]
            if isinstance(code, list):
                code = mask_util.merge(mask_util.frPyObjects(code, image["height"], image["width"]))
            elif isinstance(code["counts"], list):
                code = mask_util.frPyObjects(code, image["height"], image["width"])
            mask = mask_util.decode(code).astype(bool)
            for _ in range(rng.integers(0, 3)):
                masks.append(np.roll(mask, rng.integers(-2, 3, 2), (0, 1)))
                right = rng.random() < 0.85
                classes.append(contiguous[annotation["category_id"]] if right else int(rng.integers(80)))
        size = (image["height"], image["width"])
        masks = torch.from_numpy(np.stack(masks) if masks else np.zeros((0, *size), bool))
        boxes = torch.tensor([_box(mask.numpy(), rng, decimals) for mask in masks]).reshape(-1, 4).float()
        instances = Instances(size, pred_masks=masks, pred_boxes=Boxes(boxes))
        instances.pred_classes = torch.tensor(classes, dtype=torch.long)
        instances.scores = torch.from_numpy(
            rng.permutation(len(masks)) / max(len(masks), 1) * 0.9 + 0.0712345678
        ).float()
        outputs.append({"instances": instances})
    return outputs


def _box(mask: np.ndarray, rng, decimals: int) -> list[float]:
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return [0.0, 0.0, 1.0, 1.0]
    corner = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], float)
    return np.round(corner + rng.uniform(-0.4, 0.4, 4), decimals).tolist()


def coco_panoptic(name: str) -> list[dict]:
    """The true segments with small ids, moved, every fourth under another category."""
    metadata = MetadataCatalog.get(name)
    truth = json.loads(Path(metadata.panoptic_json).read_text())
    return [
        {"panoptic_seg": moved_segments(Path(metadata.panoptic_root) / a["file_name"], a["segments_info"], metadata)}
        for a in truth["annotations"]
    ]


def moved_segments(path: Path, truth_segments: list[dict], metadata) -> tuple[torch.Tensor, list[dict]]:
    with Image.open(path) as image:
        truth = np.asarray(image).astype(np.int64) @ np.array([1, 256, 65536])
    things, stuff = metadata.thing_dataset_id_to_contiguous_id, metadata.stuff_dataset_id_to_contiguous_id
    moved, segments = np.zeros(truth.shape, np.int32), []
    for number, segment in enumerate(truth_segments, start=1):
        moved[np.roll(truth == segment["id"], number % 3, axis=number % 2)] = number
        isthing = segment["category_id"] in things
        category = things[segment["category_id"]] if isthing else stuff[segment["category_id"]]
        if isthing and number % 4 == 0:
            category = next(iter(things.values()))
        segments.append({"id": number, "category_id": category, "isthing": isthing})
    return torch.from_numpy(moved), [s for s in segments if (moved == s["id"]).any()]


# ---- Cityscapes ----


def make_cityscapes(root: Path, images: int = 4) -> dict[str, str]:
    """A Cityscapes split val below ``root/cityscapes``; {"sem_seg", "instance_seg", "panoptic"} -> registered name."""
    base = root / "cityscapes"
    make_tree(base, images=images, size=CITY_SIZE)
    run_program("prepare_cityscapes", base, "--splits", "val")
    names = {}
    for kind in ("sem_seg", "instance_seg", "panoptic"):
        official = MetadataCatalog.get(f"cityscapes_fine_{kind}_val").as_dict()
        names[kind] = name = f"toy_cityscapes_{kind}_{root.name}"
        DatasetCatalog.register(name, lambda name=name: image_list(name))
        kept = {k: v for k, v in official.items() if k not in ("name", "image_root", "image_dir", "gt_dir")}
        kept = {k: v for k, v in kept.items() if not k.startswith("panoptic_")}
        MetadataCatalog.get(name).set(
            image_dir=str(base / "leftImg8bit" / "val"),
            gt_dir=str(base / "gtFine" / "val"),
            panoptic_json=str(base / "gtFine" / "cityscapes_panoptic_val.json"),
            panoptic_root=str(base / "gtFine" / "cityscapes_panoptic_val"),
            **kept,
        )
    return names


def truth_file(record: dict, kind: str) -> str:
    """Ground truth of a Cityscapes image."""
    return record["file_name"].replace("leftImg8bit", "gtFine").replace(".png", f"_{kind}.png")


def city_scores(name: str, seed: int = 2) -> list[dict]:
    """Scores of 19 classes: mostly the truth."""
    rng = np.random.default_rng(seed)
    outputs = []
    for record in image_list(name):
        with Image.open(truth_file(record, "labelTrainIds")) as image:
            truth = np.asarray(image)
        guess = np.where((truth == 255) | (rng.random(truth.shape) < 0.2), rng.integers(0, 19, truth.shape), truth)
        outputs.append(
            {
                "sem_seg": torch.nn.functional.one_hot(torch.from_numpy(guess.astype(np.int64)), 19)
                .permute(2, 0, 1)
                .float()
            }
        )
    return outputs


def city_instances(name: str, seed: int = 3) -> list[dict]:
    """True objects moved, lost, doubled and misnamed."""
    from cityscapesscripts.helpers.labels import id2label

    rng, classes = np.random.default_rng(seed), list(MetadataCatalog.get(name).thing_classes)
    scored = [c for c in classes if c in ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")]
    outputs = []
    for record in image_list(name):
        with Image.open(truth_file(record, "instanceIds")) as image:
            truth = np.asarray(image).astype(np.int64)
        masks, labels = [], []
        for number in np.unique(truth[truth >= 1000]):
            label = id2label[number // 1000].name
            for _ in range(rng.integers(0, 3)):
                masks.append(np.roll(truth == number, rng.integers(-2, 3, 2), (0, 1)))
                right = label in scored and rng.random() < 0.8
                labels.append(classes.index(label if right else str(rng.choice(scored))))
        instances = Instances(truth.shape, pred_masks=torch.from_numpy(np.stack(masks)))
        instances.pred_classes = torch.tensor(labels)
        instances.scores = torch.from_numpy(rng.permutation(len(masks)) / len(masks) * 0.9 + 0.05123456789).float()
        outputs.append({"instances": instances})
    return outputs


def city_panoptic(name: str) -> list[dict]:
    """As :func:`coco_panoptic`."""
    metadata = MetadataCatalog.get(name)
    truth = json.loads(Path(metadata.panoptic_json).read_text())
    by_image = {a["image_id"]: a for a in truth["annotations"]}
    found = [by_image[record["image_id"]] for record in image_list(name)]
    return [
        {"panoptic_seg": moved_segments(Path(metadata.panoptic_root) / a["file_name"], a["segments_info"], metadata)}
        for a in found
    ]


# ---- label images ----


def make_label_images(root: Path, classes: int, ignore: int, images: int = 3) -> str:
    """A data set of regions below ``root``; its registered name."""
    rng = np.random.default_rng(5)
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    for number in range(images):
        size = (40 + number, 56)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(
            root / "images" / f"val_{number:08d}.jpg"
        )
        label = rng.integers(0, classes, size)
        label[rng.random(size) < 0.1] = ignore
        Image.fromarray(label.astype(np.uint8)).save(root / "labels" / f"val_{number:08d}.png")
    name = f"toy_regions_{root.parent.name}_{classes}"
    DatasetCatalog.register(
        name,
        lambda: [
            {**r, "sem_seg_file_name": str(root / "labels" / f"{r['image_id']}.png")}
            for r in ({"file_name": str(p), "image_id": p.stem} for p in sorted((root / "images").iterdir()))
        ],
    )
    MetadataCatalog.get(name).set(
        image_root=str(root / "images"),
        stuff_classes=[str(i) for i in range(classes)],
        ignore_label=ignore,
        evaluator_type="sem_seg",
    )
    return name


def region_scores(name: str, classes: int) -> list[dict]:
    rng, outputs = np.random.default_rng(6), []
    for record in DatasetCatalog.get(name):
        with Image.open(record["sem_seg_file_name"]) as image:
            truth = np.asarray(image).astype(np.int64)
        guess = np.where(
            (truth >= classes) | (rng.random(truth.shape) < 0.3), rng.integers(0, classes, truth.shape), truth
        )
        outputs.append(
            {"sem_seg": torch.nn.functional.one_hot(torch.from_numpy(guess), classes).permute(2, 0, 1).float()}
        )
    return outputs


# ---- archives ----


def remove(name: str) -> None:
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def write(task_name: str, name: str, outputs: list[dict], folder: Path, *, split: str = "val", **limits) -> Path:
    """The archive of predictions on all images of a data set."""
    task, records = task_named(task_name), image_list(name)
    writer = task.writer(name, Limits(**limits))
    parts = PartsFolder(folder / f"parts_{task_name}")
    parts.begin(manifest(task, writer, records), restart=True)
    with parts.appending() as file:
        for record, output in zip(records, outputs, strict=True):
            file.add(writer.part(record, output))
    return pack(parts, task, split, "Toy", records, folder, has_files=writer.writes_files)


def check(archive: Path, task_name: str, name: str, *, split: str = "val", **options) -> Report:
    """What the validator says of an archive, compared with the images of a data set."""
    images = ImageList(image_list(name), name, complete=False)
    return validate(archive, task_named(task_name), split, images, **options)


def unzip(archive: Path, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    return folder


def rezip(folder: Path, archive: Path, *, prefix: str = "") -> Path:
    """A zip of all files in ``folder``."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            file.write(path, prefix + str(path.relative_to(folder)))
    return archive


def damaged(archive: Path, folder: Path, change) -> Path:
    """A copy of the archive after ``change(folder of its files)``."""
    shutil.rmtree(folder, ignore_errors=True)
    change(unzip(archive, folder / "files"))
    return rezip(folder / "files", folder / archive.name)


def evaluate(evaluator, records: list[dict], outputs: list[dict]) -> dict:
    """The project's own scores."""
    evaluator.reset()
    for record, output in zip(records, outputs, strict=True):
        evaluator.process([record], [output])
    return evaluator.evaluate()
