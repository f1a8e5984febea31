"""JSON arrays of any length, entry by entry."""

import codecs
import json
from collections.abc import Iterator
from typing import IO, Any

_CHUNK = 1 << 20
_SPACE = " \t\r\n"


def array_entries(file: IO[bytes]) -> Iterator[Any]:
    """The entries of the JSON array in ``file``, one by one; a chunk of 1 MB is in memory at a time.

    Raises:
        ValueError: the file is not JSON or ends early. The message names the entry.
        TypeError: the JSON is not an array.
    """
    text = _Text(file)
    if (first := text.peek()) != "[":
        raise TypeError(f"it begins with {first!r}, not with the [ of an array")
    text.position += 1
    if text.peek() == "]":
        text.position += 1
    else:
        number = 0
        while True:
            yield text.value(f"entry {number}")
            number += 1
            mark = text.peek()
            if mark not in (",", "]"):
                raise ValueError(f"after entry {number - 1} there is {mark!r}" if mark else "the file ends early")
            text.position += 1
            if mark == "]":
                break
    if rest := text.peek():
        raise ValueError(f"after the array there is {rest!r}")


class _Text:
    """A window on the decoded file."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._json = json.JSONDecoder()
        self._window = ""
        self._ended = False
        self.position = 0

    def _more(self, size: int = _CHUNK) -> bool:
        if self._ended:
            return False
        chunk = self._file.read(size)
        self._ended = not chunk
        self._window = self._window[self.position :] + self._decoder.decode(chunk, final=self._ended)
        self.position = 0
        return True

    def peek(self) -> str:
        """The next character that is not a space; "" at the end."""
        while True:
            while self.position < len(self._window):
                if self._window[self.position] not in _SPACE:
                    return self._window[self.position]
                self.position += 1
            if not self._more():
                return ""

    def value(self, what: str) -> Any:
        self.peek()
        size = _CHUNK
        while True:
            try:
                value, end = self._json.raw_decode(self._window, self.position)
                if end < len(self._window) or not self._more(size):  # a number could continue after the window
                    self.position = end if end <= len(self._window) else len(self._window)
                    return value
            except ValueError as error:
                if not self._more(size):
                    raise ValueError(f"{what} is not JSON or is cut short: {error}") from error
            size *= 2
