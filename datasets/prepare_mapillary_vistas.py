"""Check a download of Mapillary Vistas. The program writes no files, because the labels are used unchanged.

    .venv/bin/python datasets/prepare_mapillary_vistas.py --root FOLDER

FOLDER is the unpacked download: {training,validation}/images/*.jpg with labels of version 1.2 in labels/*.png or
v1.2/labels/*.png beside them, and config.json or config_v1.2.json. The program checks that the classes are those of
version 1.2, that every image has a label and every label an image, and that each label holds 0..65 and has the size of
its image.
"""

from pathlib import Path

from fapn_d2.data.datasets.catalog import advice
from fapn_d2.data.datasets.conversion import LabelFile, verify_labels
from fapn_d2.data.datasets.image_label_pairs import pair_files
from fapn_d2.data.datasets.mapillary import COLORS, FOLDER, IGNORE_LABEL, SPLITS, check_names, label_folder
from fapn_d2.data.datasets.program import images_of_splits, parser, run_program


def prepare(root: Path, args) -> str:
    names = [root / name for name in ("config_v1.2.json", "config.json") if (root / name).is_file()]
    if not names:
        raise FileNotFoundError(f"neither config_v1.2.json nor config.json is in {root}. {advice('mapillary_vistas')}")
    check_names(names[0])
    counts = {}
    for split in SPLITS:
        pairs = pair_files(root / split / "images", label_folder(root, split), fix=advice("mapillary_vistas"))
        files = [LabelFile(source=label, target=label, image=image) for image, label in pairs]
        verify_labels(
            files,
            num_classes=len(COLORS),
            ignore_label=IGNORE_LABEL,
            description=f"checking {split}",
            fix="Unpack them again.",
            workers=args.workers,
        )
        counts[split] = len(files)
    return images_of_splits(counts, {split: number for split, (_, number) in SPLITS.items()})


def main(arguments: list[str] | None = None) -> None:
    run_program(parser(__doc__, FOLDER), prepare, arguments)


if __name__ == "__main__":
    main()
