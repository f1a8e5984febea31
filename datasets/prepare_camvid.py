"""Convert a download of CamVid to the layout that fapn_d2 reads: {train,val,test}/ and {train,val,test}annot/.

    .venv/bin/python datasets/prepare_camvid.py SOURCE --output FOLDER

SOURCE is one of two downloads, recognised by its folders:

* the copy of the SegNet tutorial (train/, trainannot/, val/, ...), which has the layout already. It is copied and
  checked, or only checked if it is the output folder itself;
* the original release: 701_StillsRaw_full/ (960 x 720) and LabeledApproved_full/ (*_L.png, 32 classes as colours).
  Frames are resized to 480 x 360, and the colours become the 11 classes. The 32 classes are grouped as is usual in the
  literature. The SegNet tutorial does not say how it grouped them, so scores on the two copies may differ a little.

The split follows the sequences (see `split_of`). With --lists, the files train.txt, val.txt and test.txt define it
instead: one frame per line, as a stem or as any path to the frame. The program can be stopped and started again, and
checks all files at the end.
"""

import argparse
import re
import shutil
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from fapn_d2.data.datasets.camvid import CLASSES, IGNORE_LABEL
from fapn_d2.data.datasets.catalog import data_root
from fapn_d2.data.datasets.image_label_pairs import pair_files
from fapn_d2.files import write_atomically
from fapn_d2.messages import some, user_errors_as_messages

SPLITS = ("train", "val", "test")
SIZE = (480, 360)  # (W, H)
_FRAME = re.compile(r"(0001TP|0006R0|0016E5|Seq05VD)_f?(\d+)")

#: Our class -> colours (R, G, B) of the original release; None: void.
COLORS = {
    "Sky": {"Sky": (128, 128, 128)},
    "Building": {
        "Building": (128, 0, 0),
        "Archway": (192, 0, 128),
        "Bridge": (0, 128, 64),
        "Tunnel": (64, 0, 64),
        "Wall": (64, 192, 0),
    },
    "Pole": {"Column_Pole": (192, 192, 128), "TrafficCone": (0, 0, 64)},
    "Road": {"Road": (128, 64, 128), "LaneMkgsDriv": (128, 0, 192), "LaneMkgsNonDriv": (192, 0, 64)},
    "Pavement": {"Sidewalk": (0, 0, 192), "ParkingBlock": (64, 192, 128), "RoadShoulder": (128, 128, 192)},
    "Tree": {"Tree": (128, 128, 0), "VegetationMisc": (192, 192, 0)},
    "SignSymbol": {"SignSymbol": (192, 128, 128), "Misc_Text": (128, 128, 64), "TrafficLight": (0, 64, 64)},
    "Fence": {"Fence": (64, 64, 128)},
    "Car": {
        "Car": (64, 0, 128),
        "SUVPickupTruck": (64, 128, 192),
        "Truck_Bus": (192, 128, 192),
        "Train": (192, 64, 128),
        "OtherMoving": (128, 64, 64),
    },
    "Pedestrian": {
        "Pedestrian": (64, 64, 0),
        "Child": (192, 128, 64),
        "CartLuggagePram": (64, 0, 192),
        "Animal": (64, 128, 64),
    },
    "Bicyclist": {"Bicyclist": (0, 128, 192), "MotorcycleScooter": (192, 0, 192)},
    None: {"Void": (0, 0, 0)},
}


def split_of(stem: str) -> str:
    """The split of a frame by its sequence and number.

    The validation split is the part of sequence 0016E5 that was labelled at 15 Hz. The test split is the second half of
    0001TP and all of Seq05VD. This gives the SegNet tutorial's 367, 101 and 233 frames.

    Raises:
        ValueError: ``stem`` is not the name of a CamVid frame.
    """
    match = _FRAME.fullmatch(stem)
    if not match:
        raise ValueError(f"{stem} is not the name of a CamVid frame (0001TP_006690, 0006R0_f00930, ...); use --lists")
    sequence, frame = match[1], int(match[2])
    if sequence == "Seq05VD" or (sequence == "0001TP" and frame >= 8550):
        return "test"
    if sequence == "0016E5" and 7959 <= frame <= 8159:
        return "val"
    return "train"


def read_lists(folder: Path) -> dict[str, str]:
    """Stem -> split from {train,val,test}.txt."""
    splits: dict[str, str] = {}
    for split in SPLITS:
        path = folder / f"{split}.txt"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is absent; --lists needs train.txt, val.txt and test.txt")
        for line in path.read_text().splitlines():
            if not line.strip():
                continue
            stem = Path(line.split()[0]).stem  # SegNet's lists name image and label on one line
            if splits.setdefault(stem, split) != split:
                raise ValueError(f"{path}: frame {stem} is in {splits[stem]}.txt as well")
    return splits


def to_classes(colors: np.ndarray) -> tuple[np.ndarray, int]:
    """(H, W) uint8 classes of (H, W, 3) uint8 colours, and the number of pixels that became void: unknown colours."""
    packed = colors.astype(np.int64) @ np.array([65536, 256, 1])
    classes = np.full(packed.shape, IGNORE_LABEL, np.uint8)
    known = np.zeros(packed.shape, bool)
    for name, group in COLORS.items():
        for r, g, b in group.values():
            here = packed == 65536 * r + 256 * g + b
            known |= here
            if name is not None:
                classes[here] = CLASSES.index(name)
    return classes, int((~known).sum())


def _save(image: Image.Image, path: Path) -> None:
    write_atomically(path, lambda written: image.save(written, format="PNG"), flush=False)


def convert(images: Path, labels: Path, output: Path, splits: dict[str, str] | None) -> None:
    """Convert the original release: resize, map colours to classes, divide into splits."""
    fix = "Unpack both archives of the original release into one folder."
    pairs = pair_files(images, labels, fix=fix, label_suffixes=("_L.png",))
    if splits is not None:
        absent = splits.keys() - {image.stem for image, _ in pairs}
        if absent:
            raise FileNotFoundError(f"{len(absent)} frames of the lists are not in {images} ({some(absent)})")
    for image, label in tqdm(pairs, desc="converting CamVid", unit="frame"):
        split = split_of(image.stem) if splits is None else splits.get(image.stem)
        if split is None:
            continue
        image_out, label_out = output / split / f"{image.stem}.png", output / f"{split}annot" / f"{image.stem}.png"
        if not label_out.exists():
            classes, unknown = to_classes(np.asarray(Image.open(label).convert("RGB")))
            if unknown:
                tqdm.write(f"{label}: {unknown} pixels of unknown colours become void", file=sys.stderr)
            _save(Image.fromarray(classes).resize(SIZE, Image.NEAREST), label_out)
        if not image_out.exists():
            _save(Image.open(image).convert("RGB").resize(SIZE, Image.BILINEAR), image_out)


def copy(source: Path, output: Path) -> None:
    """Copy the SegNet tutorial's files, which have the layout already."""
    for split in SPLITS:
        pairs = pair_files(source / split, source / f"{split}annot", fix=f"Fetch the whole {split} split.")
        for pair in tqdm(pairs, desc=f"copying CamVid ({split})", unit="frame"):
            for file, folder in zip(pair, (split, f"{split}annot")):
                if not (target := output / folder / file.name).exists():
                    with open(file, "rb") as source_file:
                        write_atomically(target, partial(shutil.copyfileobj, source_file), flush=False)


def verify(output: Path) -> Counter:
    """Check all files, and return the number of frames in each split.

    Raises:
        ValueError: a label has another size than its image or values above 11, or a frame is in two splits.
    """
    numbers = Counter()
    seen: dict[str, str] = {}
    for split in SPLITS:
        pairs = pair_files(output / split, output / f"{split}annot", fix="Run this script again.")
        for image, label in tqdm(pairs, desc=f"checking CamVid ({split})", unit="frame"):
            values = np.asarray(Image.open(label))
            picture = Image.open(image)
            picture.load()
            if values.ndim != 2 or values.shape[::-1] != picture.size:
                raise ValueError(f"{label} is of shape {values.shape}, its image of size {picture.size[::-1]} (H, W)")
            if values.max() > IGNORE_LABEL:
                raise ValueError(f"{label} holds {values.max()}; classes are 0..10 and {IGNORE_LABEL} for void")
            if seen.setdefault(image.stem, split) != split:
                raise ValueError(f"{image.stem} is in {seen[image.stem]} and {split}; empty {output} and start again")
            numbers[split] += 1
    return numbers


def find(source: Path) -> dict[str, Path]:
    """The folders of one of the two downloads, in ``source`` or one or two levels below it."""
    if not source.is_dir():
        raise FileNotFoundError(f"folder {source} is absent")
    for folder in [source, *source.glob("*/"), *source.glob("*/*/")]:
        if (folder / "train").is_dir() and (folder / "trainannot").is_dir():
            return {"copy": folder}
    folders = [p for pattern in ("*", "*/*", "*/*/*") for p in source.glob(pattern) if p.is_dir()]
    images = next((p for p in folders if p.name == "701_StillsRaw_full" and any(p.glob("*.png"))), None)
    labels = next((p for p in folders if p.name.startswith("LabeledApproved") and any(p.glob("*_L.png"))), None)
    if images is None or labels is None:
        raise FileNotFoundError(
            f"{source} holds neither train/ and trainannot/ (the SegNet tutorial's copy) nor 701_StillsRaw_full/ and "
            "LabeledApproved_full/ (the original release)"
        )
    return {"images": images, "labels": labels}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of the download")
    parser.add_argument("--output", type=Path, help="default: camvid in $DETECTRON2_DATASETS (datasets/camvid)")
    parser.add_argument("--lists", type=Path, help="folder with train.txt, val.txt, test.txt; original release only")
    args = parser.parse_args(arguments)
    output = args.output or Path(data_root()) / "camvid"
    with user_errors_as_messages():
        found = find(args.source)
        if args.lists and "copy" in found:
            raise ValueError("--lists has no effect on the SegNet tutorial's copy, which is split already")
        splits = read_lists(args.lists) if args.lists else None
        for split in SPLITS:
            for folder in (split, f"{split}annot"):
                (output / folder).mkdir(parents=True, exist_ok=True)
        if "copy" in found:
            copy(found["copy"], output)
        else:
            convert(found["images"], found["labels"], output, splits)
        numbers = verify(output)
    print(f"{output}: " + ", ".join(f"{numbers[s]} frames for {s}" for s in SPLITS))


if __name__ == "__main__":
    main()
