"""Ground truth files of a Cityscapes split by the image they belong to."""

import os
from pathlib import Path

from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager


def image_key(path: str | os.PathLike) -> str:
    """``<city>_<sequence>_<frame>`` of any file of an image, e.g. ``aachen_000000_000019_leftImg8bit.png``.

    Raises:
        ValueError: the name does not have this form.
    """
    parts = Path(path).name.split(".")[0].split("_")
    if len(parts) < 3:
        raise ValueError(f"{path}: a Cityscapes file is named <city>_<sequence>_<frame>_<kind>.<extension>")
    return "_".join(parts[:3])


def ground_truth_files(dataset_name: str, kind: str) -> dict[str, str]:
    """Image key -> path of its ``*_gtFine_<kind>.png``, in the order of the keys.

    Args:
        dataset_name: a data set whose metadata name the folder of a split as "gt_dir".
        kind: "labelIds" or "instanceIds".

    Raises:
        FileNotFoundError: there is no such file; the message names the folder and says how to fix it.
    """
    gt_dir = Path(PathManager.get_local_path(MetadataCatalog.get(dataset_name).gt_dir))
    found = {image_key(path): str(path) for path in sorted(gt_dir.glob(f"*/*_gtFine_{kind}.png"))}
    if not found:
        raise FileNotFoundError(
            f"no ground truth {gt_dir}/<city>/*_gtFine_{kind}.png for {dataset_name}: unpack gtFine_trainvaltest.zip "
            "into the folder cityscapes below $DETECTRON2_DATASETS (datasets/README.md)"
        )
    return found
