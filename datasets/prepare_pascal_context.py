"""Make the label images of PASCAL Context with 59 classes.

    .venv/bin/python datasets/prepare_pascal_context.py --root FOLDER

FOLDER is VOCdevkit/VOC2010 of VOCtrainval_03-May-2010.tar (JPEGImages/*.jpg, ImageSets/Main/{train,val}.txt) with
trainval.tar.gz of PASCAL Context unpacked in it (trainval/*.mat; labels.txt is checked if it exists). The program
writes context_59/{train,val}.txt and context_59/labels/*.png with classes 0..58 and 255 = not scored. It can be stopped
and started again, and checks all written files at the end.
"""

from pathlib import Path

from fapn_d2.data.datasets.conversion import LabelFile, verify_labels, write_labels
from fapn_d2.data.datasets.image_label_pairs import stems
from fapn_d2.data.datasets.pascal_context import CLASSES, FOLDER, IGNORE_LABEL, SPLITS, check_names, convert
from fapn_d2.data.datasets.program import images_of_splits, parser, run_program
from fapn_d2.data.datasets.split_lists import read_list

_FIX = "Unpack VOCtrainval_03-May-2010.tar and, in its VOC2010, trainval.tar.gz of PASCAL Context."


def prepare(root: Path, args) -> str:
    annotations = stems(root / "trainval", (".mat",), fix=_FIX, what="annotations")
    for labels_txt in (root / "labels.txt", root / "trainval" / "labels.txt"):
        if labels_txt.is_file():
            check_names(labels_txt)
    # VOC's lists name all its images. A split consists of those that PASCAL Context has labelled.
    names = {
        split: [
            name for name in read_list(root / "ImageSets" / "Main" / f"{split}.txt", fix=_FIX) if name in annotations
        ]
        for split in SPLITS
    }
    if unlisted := annotations.keys() - {name for listed in names.values() for name in listed}:
        raise ValueError(f"{len(unlisted)} annotations are in neither of VOC's lists ({min(unlisted)}, ...)")
    target = root / "context_59"
    files = [
        LabelFile(annotations[name], target / "labels" / f"{name}.png", root / "JPEGImages" / f"{name}.jpg")
        for listed in names.values()
        for name in listed
    ]
    write_labels(files, convert, description="59 classes", workers=args.workers)
    verify_labels(
        files,
        num_classes=len(CLASSES),
        ignore_label=IGNORE_LABEL,
        description="checking 59 classes",
        workers=args.workers,
    )
    for split, listed in names.items():  # written last, so that a list exists only if its split is complete
        (target / f"{split}.txt").write_text("".join(f"{name}\n" for name in listed))
    return images_of_splits({split: len(listed) for split, listed in names.items()}, SPLITS)


def main(arguments: list[str] | None = None) -> None:
    run_program(parser(__doc__, FOLDER), prepare, arguments)


if __name__ == "__main__":
    main()
