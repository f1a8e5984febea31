"""Generate the data set "shapes" with another number of images, size or seed than the copy made on first use.

.venv/bin/python datasets/prepare_shapes.py --output FOLDER --train 2000 --val 200 --size 320 384 --seed 1
"""

import argparse
from pathlib import Path

from fapn_d2.data import generate_shapes
from fapn_d2.data.datasets.catalog import data_root
from fapn_d2.data.datasets.shapes.spec import DEFAULT_SIZE, DEFAULT_SPLITS
from fapn_d2.messages import user_errors_as_messages


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="default: shapes in $DETECTRON2_DATASETS (datasets/shapes)")
    parser.add_argument("--train", type=int, default=DEFAULT_SPLITS["train"], help="number of images")
    parser.add_argument("--val", type=int, default=DEFAULT_SPLITS["val"], help="number of images")
    parser.add_argument("--size", type=int, nargs=2, default=DEFAULT_SIZE, metavar=("H", "W"), help="pixels")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    output = args.output or Path(data_root()) / "shapes"
    with user_errors_as_messages(also=(OSError,)):
        generate_shapes(output, splits={"train": args.train, "val": args.val}, size=tuple(args.size), seed=args.seed)
    print(
        f"{output}: {args.train} images for train, {args.val} for val, {args.size[0]} x {args.size[1]} pixels (H x W)"
    )


if __name__ == "__main__":
    main()
