"""Messages for users: the first of many names, similar names, and one message instead of a traceback.

Exit codes of the commands:

- 0: done.
- 1: a failure, with a traceback.
- 2: an error that the user can fix. The message says how.
- 75: stopped by a signal. The state is saved; ``--resume`` continues the run.
"""

import contextlib
import difflib
import os
import re
import sys
from collections.abc import Iterable, Iterator

from detectron2.utils import comm

EXIT_USER_ERROR = 2

#: Types of the errors that the user can fix.
USER_ERRORS = (ValueError, FileNotFoundError)


@contextlib.contextmanager
def user_errors_as_messages(*, debug: bool | None = None, also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn errors that the user can fix into one message and exit code 2, without a traceback.

    FAPN_DEBUG=1 in the environment shows tracebacks for all commands.

    Args:
        debug: whether to show the traceback. None: the command does not have an option ``--debug``.
        also: further types of errors that the user can fix, besides :data:`USER_ERRORS`.

    Raises:
        SystemExit: an error occurred. The code is 2, and the text is the message.
    """
    try:
        yield
    except (*USER_ERRORS, *also) as error:
        if debug or os.environ.get("FAPN_DEBUG", "0") != "0":
            raise
        who = f" (rank {comm.get_rank()})" if comm.get_world_size() > 1 else ""
        message = f"error{who}: {message_of(error)}"
        option = "FAPN_DEBUG=1" if debug is None else "--debug"
        print(f"{message}\n({option} shows where it comes from)", file=sys.stderr, flush=True)
        end = SystemExit(message)
        end.code = EXIT_USER_ERROR
        raise end from error


def message_of(error: BaseException) -> str:
    """The text of an error, without the traceback that PyTorch adds to an error in a loader process."""
    text, name = str(error), type(error).__name__
    if not text.startswith(f"Caught {name} in "):
        return text
    heads = list(re.finditer(rf"^(?:[\w.]+\.)?{name}: ", text, re.MULTILINE))
    return text[heads[-1].end() :].strip() if heads else text


#: Exit code of a run that was stopped by a signal and saved its state. It is EX_TEMPFAIL ("try again").
EXIT_STOPPED = 75


def some(names: Iterable, limit: int = 3, *, sort: bool = True) -> str:
    """The first few names, for messages: "a, b, c and 4 more"."""
    names = [str(name) for name in names]
    if sort:
        names.sort()
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def nearest(name: str, known: Iterable[str], *, limit: int = 3, cutoff: float = 0.6, otherwise: str = "") -> str:
    """The part of a message that says what was probably meant: "; nearest: a, b".

    Args:
        name: the name that the user wrote.
        known: the allowed names.
        limit: the largest number of names in the message.
        cutoff: the smallest similarity of a name, between 0 (different) and 1 (equal).
        otherwise: the return value if no name is similar.
    """
    near = similar(name, known, limit=limit, cutoff=cutoff)
    return f"; nearest: {', '.join(near)}" if near else otherwise


def similar(name: str, known: Iterable[str], *, limit: int = 3, cutoff: float = 0.6) -> list[str]:
    """The names in ``known`` that are similar to ``name``, most similar first. Arguments as for :func:`nearest`."""
    return difflib.get_close_matches(name, list(known), n=limit, cutoff=cutoff)
