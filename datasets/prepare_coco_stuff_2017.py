"""Make the label images of COCO-Stuff 2017 with 92 classes from the pixel maps of the stuff challenge.

    .venv/bin/python datasets/prepare_coco_stuff_2017.py --root FOLDER --splits val train

FOLDER holds COCO and stuff_{train,val}2017_pixelmaps/*.png. The pixel maps are archives inside
stuff_annotations_trainval2017.zip; unpack them in FOLDER. The program writes stuff_92_{train,val}2017/*.png: 0..90 =
stuff (COCO ids 92..182), 91 = any thing (id 183), 255 = unlabelled. It can be stopped and started again, and checks all
written files at the end.
"""

from pathlib import Path

from fapn_d2.data.datasets.coco_stuff_2017 import CLASSES, FOLDER, IGNORE_LABEL, SPLITS, convert
from fapn_d2.data.datasets.conversion import LabelFile, verify_labels, write_labels
from fapn_d2.data.datasets.image_label_pairs import LABEL_SUFFIXES, stems
from fapn_d2.data.datasets.program import images_of_splits, parser, run_program


def prepare(root: Path, args) -> str:
    counts = {}
    for split in args.splits:
        folder = root / f"stuff_{split}2017_pixelmaps"
        fix = f"Unpack {folder.name}.zip there; it is in stuff_annotations_trainval2017.zip."
        files = []
        for name, source in sorted(stems(folder, LABEL_SUFFIXES, fix=fix, what="pixel maps").items()):
            picture = root / f"{split}2017" / f"{name}.jpg"
            target = root / f"stuff_92_{split}2017" / f"{name}.png"
            files.append(LabelFile(source, target, picture if picture.is_file() else None))
        write_labels(files, convert, description=split, workers=args.workers)
        verify_labels(
            files,
            num_classes=len(CLASSES),
            ignore_label=IGNORE_LABEL,
            description=f"checking {split}",
            workers=args.workers,
        )
        counts[split] = len(files)
    return images_of_splits(counts, {split: SPLITS[split] for split in counts})


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__, FOLDER)
    made.add_argument("--splits", nargs="+", choices=sorted(SPLITS), default=["val", "train"])
    run_program(made, prepare, arguments)


if __name__ == "__main__":
    main()
