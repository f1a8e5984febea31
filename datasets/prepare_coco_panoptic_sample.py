"""Lay out the two example images of panopticapi as a COCO of two images, on which a panoptic network should overfit.

    .venv/bin/python datasets/prepare_coco_panoptic_sample.py SAMPLE --root FOLDER

SAMPLE is sample_data of github.com/cocodataset/panopticapi: panoptic_examples.json, panoptic_examples/*.png and
input_images/*.jpg. FOLDER must not exist. The program writes what coco_2017_val_panoptic_separated expects there:
annotations/{instances,panoptic}_val2017.json, val2017/, panoptic_val2017/ and panoptic_stuff_val2017/. The objects of
instances_val2017.json are the segments of things in the panoptic ground truth.
"""

import argparse
from pathlib import Path

from fapn_d2.data.datasets.coco_panoptic import write_sample
from fapn_d2.messages import user_errors_as_messages


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sample", type=Path, help="folder with panoptic_examples.json")
    parser.add_argument("--root", type=Path, required=True, help="new folder, named coco, below a data root of its own")
    args = parser.parse_args(arguments)
    with user_errors_as_messages(also=(OSError,)):
        images, objects = write_sample(args.sample, args.root)
    print(f"{args.root}: {images} images with {objects} objects")


if __name__ == "__main__":
    main()
