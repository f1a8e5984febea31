"""What users read when something goes wrong: a few of many names, near names, one sentence instead of a traceback.

Exit codes: 0 done; 1 a failure, with traceback; 2 the user can fix it, and the message says how; 75 asked to stop,
state saved, to be continued with ``--resume``.
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
    """End with one message and code 2, instead of a traceback, at errors that the user can fix.

    Args:
        debug: let the exception pass, with its traceback. None: the command has no ``--debug``; FAPN_DEBUG=1 in the
            environment does the same for all commands.
        also: types of errors that the user can fix here, besides :data:`USER_ERRORS`.

    Raises:
        SystemExit: with code 2; its text is the message.
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
    """The text of an error. PyTorch wraps a traceback around the text of an error in a loader process; not here."""
    text, name = str(error), type(error).__name__
    if not text.startswith(f"Caught {name} in "):
        return text
    heads = list(re.finditer(rf"^(?:[\w.]+\.)?{name}: ", text, re.MULTILINE))
    return text[heads[-1].end() :].strip() if heads else text


#: Exit code of a run that was asked to stop and saved its state: "try again" (EX_TEMPFAIL), with ``--resume``.
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
        name: what the user wrote.
        known: what is allowed.
        limit: the largest number of names.
        cutoff: similarity that a name needs, between 0 (none) and 1 (equal).
        otherwise: returned where no name is similar.
    """
    near = difflib.get_close_matches(name, list(known), n=limit, cutoff=cutoff)
    return f"; nearest: {', '.join(near)}" if near else otherwise
