"""Classes, colours, numbers and file names of the data set "shapes".

Dataset ids are the numbers in JSON files: things 1..6, stuff 7..9. Semantic labels are the dataset id minus one.
"""

from pathlib import Path

THINGS = ("disc", "square", "triangle", "star", "ring", "stick")
STUFF = ("sky", "grass", "sand")

THING_COLORS = ((220, 50, 47), (58, 110, 230), (240, 180, 30), (225, 60, 170), (30, 190, 190), (130, 80, 210))
STUFF_COLORS = ((135, 190, 235), (90, 160, 60), (225, 200, 140))
#: Colour of "all things" in the stuff-only labels.
ANY_THING_COLOR = (82, 18, 128)

THING_IDS = tuple(range(1, len(THINGS) + 1))
STUFF_IDS = tuple(range(len(THINGS) + 1, len(THINGS) + len(STUFF) + 1))

IGNORE_LABEL = 255

#: Numbers of images and their (H, W) in the data set that is generated on first use.
DEFAULT_SPLITS = {"train": 200, "val": 40}
DEFAULT_SIZE = (160, 192)


def paths(split: str) -> dict[str, str]:
    """Files and folders of one split in the folder of the data set; keys are those of Detectron2's metadata."""
    return {
        "image_root": split,
        "json_file": f"annotations/instances_{split}.json",
        "panoptic_json": f"annotations/panoptic_{split}.json",
        "panoptic_root": f"panoptic_{split}",
        "sem_seg_root": f"sem_seg_{split}",
        "stuff_root": f"panoptic_stuff_{split}",
    }


def categories() -> list[dict]:
    """All classes in the format of COCO's panoptic JSON."""
    things = [
        {"id": i, "name": n, "supercategory": "thing", "isthing": 1, "color": list(c)}
        for i, n, c in zip(THING_IDS, THINGS, THING_COLORS)
    ]
    stuff = [
        {"id": i, "name": n, "supercategory": "stuff", "isthing": 0, "color": list(c)}
        for i, n, c in zip(STUFF_IDS, STUFF, STUFF_COLORS)
    ]
    return things + stuff


def folder(root: str | Path, split: str, key: str) -> Path:
    """Path of an entry of :func:`paths`; ``root`` is the folder of the data set."""
    return Path(root) / paths(split)[key]
