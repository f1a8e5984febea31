"""Writing files atomically: a reader sees the old content or the new content, never a part of it."""

import json
import math
import os
from collections.abc import Callable
from typing import IO, Any


def write_atomically(path: str | os.PathLike, write: Callable[[IO[bytes]], Any], *, flush: bool = True) -> None:
    """Write a file beside ``path``, then rename it to ``path``. Several processes may do so at once.

    Args:
        path: the file to write. Its folder must exist.
        write: a function that writes the content to a binary file.
        flush: whether to wait until the content is on the disk, so that it survives a power failure. False is faster
            for many small files that can be written again.

    Raises:
        OSError: the file cannot be written; an earlier file at ``path`` is unchanged.
    """
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            write(file)
            if flush:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if flush:
            _flush_folder(os.path.dirname(path) or ".")
    except BaseException as error:
        if os.path.exists(temporary):
            os.remove(temporary)
        if isinstance(error, (OSError, RuntimeError)):  # torch.save turns a full disk into a RuntimeError
            raise OSError(f"cannot write {path} ({error}); what was saved before is intact") from error
        raise


def write_text_atomically(path: str | os.PathLike, text: str) -> None:
    """:func:`write_atomically` for a text, in UTF-8."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: str | os.PathLike, content: Any, *, indent: int | None = 1, sort_keys: bool = False) -> None:
    """Write valid JSON atomically: numbers that JSON lacks (NaN, infinities) become null.

    Args:
        path: the file to write.
        content: the dicts, lists, text and numbers to write, including NumPy's numbers.
        indent: the indentation of nested values; None writes one line.
        sort_keys: whether to write the keys of each dict in alphabetical order.
    """
    write_text_atomically(path, json.dumps(_valid(content), indent=indent, sort_keys=sort_keys, allow_nan=False))


def _flush_folder(path: str) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _valid(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _valid(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_valid(inner) for inner in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    number = float(value)
    return number if math.isfinite(number) else None
