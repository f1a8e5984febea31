"""Write the annotations of a few images of COCO, on which a network should overfit within minutes.

    .venv/bin/python datasets/prepare_coco_subset.py --root FOLDER --split train2017 --number 8

FOLDER (default: coco in $DETECTRON2_DATASETS) holds annotations/instances_<split>.json. The program writes
annotations/instances_<split>_<number>.json with the first images that have no crowds and whose objects all have an area
of at least min-side squared. configs/quickstart/mask_rcnn_FaPN_coco_overfit.yaml uses them as coco_2017_train_8.
"""

import argparse
import json
from pathlib import Path

from fapn_d2.data.datasets.catalog import data_root
from fapn_d2.data.datasets.coco_subset import annotation_file, select
from fapn_d2.files import write_json
from fapn_d2.messages import user_errors_as_messages


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="default: coco in $DETECTRON2_DATASETS (datasets/coco)")
    parser.add_argument("--split", default="train2017", help="train2017 or val2017")
    parser.add_argument("--number", type=int, default=8, help="number of images (default %(default)s)")
    parser.add_argument(
        "--min-side",
        type=float,
        default=32,
        help="square root of the smallest area of an object, in pixels (default %(default)g)",
    )
    args = parser.parse_args(arguments)
    root = args.root or Path(data_root()) / "coco"
    source = root / "annotations" / f"instances_{args.split}.json"
    target = root / Path(annotation_file(args.split, args.number)).relative_to("coco")
    with user_errors_as_messages(also=(OSError,)):
        if not source.is_file():
            raise FileNotFoundError(f"{source} is absent; datasets/README.md shows where COCO is expected")
        subset = select(json.loads(source.read_text()), args.number, min_side=args.min_side)
        write_json(target, subset, indent=None)
    print(f"{target}: {len(subset['images'])} images with {len(subset['annotations'])} objects")


if __name__ == "__main__":
    main()
