"""Make the label images of COCO from which the semantic branch of Panoptic FPN learns.

    .venv/bin/python datasets/prepare_coco_panoptic.py --root FOLDER --splits val2017 train2017

FOLDER holds COCO and the unpacked panoptic_annotations_trainval2017.zip, with the archives inside it unpacked too:
annotations/panoptic_{train,val}2017.json, panoptic_{train,val}2017/*.png, {train,val}2017/*.jpg. The program writes
panoptic_stuff_{train,val}2017/*.png (0 = any thing, 1..53 = stuff, 255 = unlabelled), where Detectron2's
coco_2017_{train,val}_panoptic_separated expect them. It can be stopped and started again, and checks all written files
at the end.
"""

import json
from pathlib import Path

from fapn_d2.data.datasets.coco_panoptic import FOLDER, IGNORE_LABEL, convert, stuff_classes
from fapn_d2.data.datasets.conversion import LabelFile, verify_labels, write_labels
from fapn_d2.data.datasets.program import parser, run_program

SPLITS = ("val2017", "train2017")


def prepare(root: Path, args) -> str:
    classes = stuff_classes()
    counts = []
    for split in args.splits:
        annotations = root / "annotations" / f"panoptic_{split}.json"
        if not annotations.is_file():
            raise FileNotFoundError(f"{annotations} is absent; unpack panoptic_annotations_trainval2017.zip there")
        with open(annotations) as file:
            content = json.load(file)
        pictures = {image["id"]: image["file_name"] for image in content["images"]}
        files = []
        for annotation in content["annotations"]:
            picture = root / split / pictures[annotation["image_id"]]
            segments = {s["id"]: classes[s["category_id"]] for s in annotation["segments_info"]}
            name = annotation["file_name"]
            files.append(
                LabelFile(
                    root / f"panoptic_{split}" / name,
                    root / f"panoptic_stuff_{split}" / name,
                    picture if picture.is_file() else None,
                    segments,
                )
            )
        write_labels(files, convert, description=split, workers=args.workers)
        verify_labels(
            files,
            num_classes=54,
            ignore_label=IGNORE_LABEL,
            description=f"checking {split}",
            workers=args.workers,
        )
        without = sum(file.image is None for file in files)
        counts.append(f"{len(files)} labels for {split}" + (f", {without} without a picture yet" if without else ""))
    return ", ".join(counts)


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__, FOLDER)
    made.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS, help="default: val2017 train2017")
    run_program(made, prepare, arguments)


if __name__ == "__main__":
    main()
