"""Make the files that training on Cityscapes needs besides the download: label images and panoptic annotations.

    .venv/bin/python datasets/prepare_cityscapes.py --root FOLDER --splits train val

FOLDER holds the unpacked leftImg8bit/ (leftImg8bit_trainvaltest.zip) and gtFine/ (gtFine_trainvaltest.zip). The
program writes

* semantic: gtFine/<split>/<city>/*_gtFine_labelTrainIds.png, classes 0..18 and 255;
* panoptic: gtFine/cityscapes_panoptic_<split>/*_gtFine_panoptic.png and gtFine/cityscapes_panoptic_<split>.json;

which equal the results of createTrainIdLabelImgs and createPanopticImgs of cityscapesscripts. The program can be
stopped and started again, and checks all written files at the end.
"""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from fapn_d2.data.datasets.cityscapes import (
    FOLDER,
    IGNORE_LABEL,
    NUM_CLASSES,
    instance_files,
    panoptic_annotation,
    panoptic_categories,
    train_ids,
)
from fapn_d2.data.datasets.conversion import LabelFile, in_parallel, verify_labels, write_labels
from fapn_d2.data.datasets.image_label_pairs import pair_files
from fapn_d2.data.datasets.program import parser, run_program
from fapn_d2.data.panoptic_png import rgb2id
from fapn_d2.files import write_json

SPLITS = ("train", "val")
_INSTANCES, _PICTURE = "_gtFine_instanceIds.png", "_leftImg8bit.png"


def semantic(root: Path, split: str, workers: int) -> int:
    """Write the label images of a split, and return their number."""
    files = []
    for instances in find(root, split):
        base = str(instances).removesuffix(_INSTANCES)
        picture = Path(base.replace(os.sep + "gtFine" + os.sep, os.sep + "leftImg8bit" + os.sep) + _PICTURE)
        files.append(
            LabelFile(Path(base + "_gtFine_labelIds.png"), Path(base + "_gtFine_labelTrainIds.png"), image=picture)
        )
    write_labels(files, train_ids, description=f"classes of {split}", workers=workers)
    verify_labels(
        files,
        num_classes=NUM_CLASSES,
        ignore_label=IGNORE_LABEL,
        description=f"checking classes of {split}",
        workers=workers,
    )
    return len(files)


def panoptic(root: Path, split: str, workers: int) -> int:
    """Write the panoptic images and annotations of a split, and return the number of images."""
    folder = root / "gtFine" / f"cityscapes_panoptic_{split}"
    folder.mkdir(exist_ok=True)
    files = []
    for instances in find(root, split):
        stem = instances.name.removesuffix(_INSTANCES)
        files.append(LabelFile(instances, folder / f"{stem}_gtFine_panoptic.png", extra=stem))
    annotations = in_parallel(panoptic_annotation, files, description=f"segments of {split}", workers=workers)
    checked = in_parallel(
        check_segments, list(zip(files, annotations)), description=f"checking segments of {split}", workers=workers
    )
    if problems := [problem for problem in checked if isinstance(problem, str)]:
        raise ValueError(
            f"{len(problems)} panoptic images are wrong: {'; '.join(problems[:3])}. Remove them, run again."
        )
    images = [
        {"id": file.extra, "width": w, "height": h, "file_name": f"{file.extra}_gtFine_leftImg8bit.png"}
        for file, (w, h) in zip(files, checked)
    ]
    target = folder.with_suffix(".json")
    content = {"images": images, "annotations": annotations, "categories": panoptic_categories()}
    write_json(target, content, sort_keys=True, indent=4)
    return len(files)


def check_segments(item: tuple[LabelFile, dict]) -> str | tuple[int, int]:
    """(W, H) of a panoptic image if its segments and their areas equal its annotation, else the problem."""
    file, annotation = item
    try:
        colors = np.asarray(Image.open(file.target))
        ids, areas = np.unique(rgb2id(colors), return_counts=True)
    except (OSError, ValueError) as error:
        return f"{file.target}: {error}"
    found = dict(zip(ids.tolist(), areas.tolist()))
    found.pop(0, None)
    if found != {segment["id"]: segment["area"] for segment in annotation["segments_info"]}:
        return f"{file.target} does not hold the segments of {file.source.name}"
    return colors.shape[1], colors.shape[0]


def find(root: Path, split: str) -> list[Path]:
    """All instance images of a split. Each must have its picture.

    Raises:
        FileNotFoundError: there are no instance images, or pictures and labels of a city do not match one to one.
    """
    labels, pictures = root / "gtFine" / split, root / "leftImg8bit" / split
    fix = "Unpack gtFine_trainvaltest.zip and leftImg8bit_trainvaltest.zip there."
    found = instance_files(labels)
    if not found:
        raise FileNotFoundError(f"no {labels}/<city>/*{_INSTANCES}. {fix}")
    for city in sorted({path.parent.name for path in found}):
        pair_files(
            pictures / city,
            labels / city,
            fix=fix,
            image_suffixes=(_PICTURE,),
            label_suffixes=(_INSTANCES,),
        )
    return found


def prepare(root: Path, args) -> str:
    done = []
    for split in args.splits:
        for kind, make in (("semantic", semantic), ("panoptic", panoptic)):
            if args.only in (None, kind):
                done.append(f"{make(root, split, args.workers)} {kind} labels for {split}")
    return ", ".join(done)


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__, FOLDER)
    made.add_argument(
        "--splits", nargs="+", choices=("train", "val", "test"), default=SPLITS, help="default: train val"
    )
    made.add_argument("--only", choices=("semantic", "panoptic"), help="default: both")
    run_program(made, prepare, arguments)


if __name__ == "__main__":
    main()
