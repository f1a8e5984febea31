"""Reading images and labels such that whatever is wrong with a file comes out as an error that names it."""

import numpy as np
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from PIL import Image

_LABEL_MODES = ("1", "L", "P", "I", "I;16", "I;16B")  # Pillow's single-channel modes that hold whole numbers


class BadImageError(ValueError):
    """A file of one image cannot be used; the message names it. Has one argument, so it travels between processes."""


def read_image(path: str, image_format: str) -> np.ndarray:
    """(H, W, C) picture in Detectron2's ``image_format``, turned as its EXIF tag says.

    Raises:
        FileNotFoundError: the file is absent.
        BadImageError: it is not an image, or cut short.
    """
    return np.ascontiguousarray(_naming(path, "image", lambda: detection_utils.read_image(path, format=image_format)))


def read_labels(path: str) -> np.ndarray:
    """(H, W) class numbers as stored: of a palette image its indices.

    Detectron2 converts labels to grey instead, which turns the indices of a palette image into the brightness of
    their colours, and cuts 16 bit to 8.

    Raises:
        FileNotFoundError: the file is absent.
        BadImageError: it is not an image, or cut short.
        ValueError: it has more than one channel.
    """
    with _naming(path, "label", lambda: PathManager.open(path, "rb")) as file:
        image = _naming(path, "label", lambda: Image.open(file))
        if image.mode not in _LABEL_MODES:
            raise ValueError(
                f"label {path} is an image of mode {image.mode}; allowed are single-channel images of class numbers "
                f"({', '.join(_LABEL_MODES)}). Convert colours to class numbers first."
            )
        labels = _naming(path, "label", lambda: np.array(image))
    return labels.astype(np.uint8) if labels.dtype == bool else labels


def _naming(path: str, what: str, action):
    try:
        return action()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{what} {path} does not exist") from error
    except MemoryError:
        raise
    except Exception as error:  # decoders raise nearly anything on broken input: OSError, SyntaxError, struct.error
        raise BadImageError(f"{what} {path} cannot be read: {type(error).__name__}: {error}") from error


def check_labels(labels: np.ndarray, *, num_classes: int, ignore_value: int, path: str) -> None:
    """Every class number must be one that the model has, or the ignore value.

    Args:
        labels: (H, W) whole numbers.
        num_classes: 0..num_classes-1 are allowed.
        ignore_value: also allowed.
        path: the path that the message names.

    Raises:
        ValueError: names the file, the values found and the values allowed.
    """
    if labels.dtype == np.uint8:  # counting is several times faster than sorting
        values = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
    else:
        values = np.unique(labels)
    wrong = [int(v) for v in values if not (0 <= v < num_classes or v == ignore_value)]
    if wrong:
        shown = ", ".join(map(str, wrong[:10])) + (", ..." if len(wrong) > 10 else "")
        raise ValueError(
            f"label {path} holds the values {shown}; allowed are 0..{num_classes - 1} "
            f"(MODEL.SEM_SEG_HEAD.NUM_CLASSES = {num_classes}) and {ignore_value} (MODEL.SEM_SEG_HEAD.IGNORE_VALUE)."
        )
