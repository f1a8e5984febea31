"""Objects in COCO's format: classes without reading the whole file, and loading with errors that name what is wrong."""

import json
import mmap
import os
import re
from typing import Any

from detectron2.data.datasets.coco import load_coco_json

from ...messages import some

_CATEGORIES = re.compile(rb'"categories"\s*:\s*(?=\[)')


def categories(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The list under "categories" of a JSON file in COCO's format, sorted by id.

    Only this list is parsed, because the annotations of a large data set take half a minute.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it has no such list, or an entry lacks "id" or "name", or an id or a name occurs twice.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"the annotations {path} are absent")
    found = _categories_only(path)
    if found is None:
        try:
            with open(path) as file:
                found = json.load(file)["categories"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'{path} is not a JSON object with a list of classes under "categories"') from error
    if not _are_categories(found) or not found:
        raise ValueError(f'{path}: "categories" must be a list of at least one class, each with "id" and "name"')
    for key in ("id", "name"):
        values = [category[key] for category in found]
        if twice := {value for value in values if values.count(value) > 1}:
            raise ValueError(f'{path}: "categories" holds the {key} {some(twice)} twice')
    return sorted(found, key=lambda category: category["id"])


def _categories_only(path: str | os.PathLike) -> list | None:
    if not os.path.getsize(path):
        return None
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for match in _CATEGORIES.finditer(content):
            try:
                found, _ = json.JSONDecoder().raw_decode(content[match.end() : match.end() + 2**20].decode())
            except ValueError:
                continue
            if _are_categories(found) and found:
                return found
    return None


def _are_categories(found: Any) -> bool:
    return isinstance(found, list) and all(
        isinstance(entry, dict) and {"id", "name"} <= entry.keys() for entry in found
    )


def load_objects(json_file: str, image_root: str, name: str) -> list[dict]:
    """Detectron2's records of a file in COCO's format.

    Args:
        json_file: the annotations.
        image_root: folder of the images.
        name: data set whose metadata get the classes.

    Raises:
        ValueError: the file is not in COCO's format, an annotation has a category that "categories" lacks, or two
            annotations have the same id.
    """
    categories(json_file)
    try:
        return load_coco_json(json_file, image_root, name)
    except (KeyError, AssertionError, TypeError, IndexError, json.JSONDecodeError) as error:
        reason = str(error.args[0]) if error.args else ""
        what = reason if " " in reason else f"{type(error).__name__}: {reason}"
        raise ValueError(f"{json_file} is not in COCO's format: {what}") from error
