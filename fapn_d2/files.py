"""Writing files so that a reader sees the old content or the new content, never a part of it."""

import json
import math
import os
from collections.abc import Callable
from typing import IO, Any


def write_atomically(path: str, write: Callable[[IO[bytes]], Any]) -> None:
    """Write beside ``path``, flush to the disk, then rename: readers see the old content or the new, never a part."""
    temporary = f"{path}.tmp"
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException as error:
        if os.path.exists(temporary):
            os.remove(temporary)
        if isinstance(error, (OSError, RuntimeError)):  # torch.save turns a full disk into a RuntimeError
            raise OSError(f"cannot write {path} ({error}); what was saved before is intact") from error
        raise


def write_json(path: str, content: Any, *, indent: int | None = 1) -> None:
    """Write valid JSON atomically: numbers that JSON lacks (NaN, infinities) become null.

    Args:
        path: of the file.
        content: dicts, lists, text and numbers, NumPy's too.
        indent: of nested values.
    """
    text = json.dumps(_valid(content), indent=indent, allow_nan=False)
    write_atomically(path, lambda file: file.write(text.encode()))


def _valid(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _valid(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_valid(inner) for inner in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    number = float(value)
    return number if math.isfinite(number) else None
