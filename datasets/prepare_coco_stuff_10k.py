"""Make the label images of COCO-Stuff-10K from its .mat files, with 171 and with 182 classes.

    .venv/bin/python datasets/prepare_coco_stuff_10k.py --root FOLDER --classes 171 182

FOLDER is the unpacked cocostuff-10k-v1.1.zip: images/*.jpg, annotations/*.mat, imageLists/{train,test}.txt. Version 1.0
of the release works too, and needs the package h5py. The program writes labels_{171,182}/*.png: classes count from 0,
255 = unlabelled. It can be stopped and started again, and checks all written files at the end.
"""

from pathlib import Path

from fapn_d2.data.datasets.coco_stuff import CLASSES, FOLDER, IGNORE_LABEL, SPLITS, convert
from fapn_d2.data.datasets.conversion import LabelFile, verify_labels, write_labels
from fapn_d2.data.datasets.program import images_of_splits, parser, run_program
from fapn_d2.data.datasets.split_lists import load_listed, read_list

_FIX = "Unpack cocostuff-10k-v1.1.zip there."


def prepare(root: Path, args) -> str:
    names = {split: read_list(root / "imageLists" / f"{split}.txt", fix=_FIX) for split in SPLITS}
    if both := set(names["train"]) & set(names["test"]):
        raise ValueError(f"{root}/imageLists: {len(both)} images are in train.txt and in test.txt ({min(both)}, ...)")
    for number in args.classes:
        labels = root / f"labels_{number}"
        files = [
            LabelFile(
                root / "annotations" / f"{name}.mat", labels / f"{name}.png", root / "images" / f"{name}.jpg", number
            )
            for split in SPLITS
            for name in names[split]
        ]
        write_labels(files, convert, description=f"{number} classes", workers=args.workers)
        for split in SPLITS:
            load_listed(root / "imageLists" / f"{split}.txt", root / "images", labels, fix=_FIX)
        verify_labels(
            files,
            num_classes=number,
            ignore_label=IGNORE_LABEL,
            description=f"checking {number} classes",
            workers=args.workers,
        )
    counts = images_of_splits({split: len(listed) for split, listed in names.items()}, SPLITS)
    return f"{counts}, with {' and '.join(map(str, args.classes))} classes"


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__, FOLDER)
    made.add_argument("--classes", type=int, nargs="+", choices=sorted(CLASSES), default=sorted(CLASSES))
    run_program(made, prepare, arguments)


if __name__ == "__main__":
    main()
