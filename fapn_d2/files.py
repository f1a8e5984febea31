"""Writing files so that a reader sees the old content or the new content, never a part of it."""

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
