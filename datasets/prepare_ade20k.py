"""Make the label images of ADE20K from those of the scene parsing challenge.

    .venv/bin/python datasets/prepare_ade20k.py --root FOLDER

FOLDER is the unpacked ADEChallengeData2016.zip: images/{training,validation}/*.jpg and
annotations/{training,validation}/*.png with classes 1..150 and 0 for unlabelled. The program writes
annotations_detectron2/{training,validation}/*.png with classes 0..149 and 255 for unlabelled, where Detectron2's
ade20k_sem_seg_{train,val} expect them. It can be stopped and started again, and checks all written files at the end.
"""

from pathlib import Path

from fapn_d2.data.datasets.ade20k import FOLDER, IGNORE_LABEL, NUM_CLASSES, SPLITS, convert
from fapn_d2.data.datasets.conversion import LabelFile, verify_labels, write_labels
from fapn_d2.data.datasets.image_label_pairs import pair_files
from fapn_d2.data.datasets.program import images_of_splits, parser, run_program


def prepare(root: Path, args) -> str:
    counts = {}
    for split in SPLITS:
        pairs = pair_files(
            root / "images" / split, root / "annotations" / split, fix="Unpack ADEChallengeData2016.zip there."
        )
        target = root / "annotations_detectron2" / split
        files = [LabelFile(label, target / label.name, image) for image, label in pairs]
        write_labels(files, convert, description=split, workers=args.workers)
        pair_files(
            root / "images" / split, target, fix="Remove the labels without an image and run this program again."
        )
        verify_labels(
            files,
            num_classes=NUM_CLASSES,
            ignore_label=IGNORE_LABEL,
            description=f"checking {split}",
            workers=args.workers,
        )
        counts[split] = len(files)
    return images_of_splits(counts, SPLITS)


def main(arguments: list[str] | None = None) -> None:
    run_program(parser(__doc__, FOLDER), prepare, arguments)


if __name__ == "__main__":
    main()
