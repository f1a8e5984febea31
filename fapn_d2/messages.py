"""What users read when something goes wrong: a few of many names, near names, one sentence instead of a traceback.

Exit codes: 0 done; 1 a failure, with traceback; 2 the user can fix it, and the message says how; 75 asked to stop,
state saved, to be continued with ``--resume``.
"""

import contextlib
import os
import re
import sys
from collections.abc import Iterable, Iterator

from detectron2.utils import comm

EXIT_USER_ERROR = 2

#: Types of the errors that the user can fix.
USER_ERRORS = (ValueError, FileNotFoundError)


@contextlib.contextmanager
def user_errors_as_messages(*, debug: bool = False) -> Iterator[None]:
    """End with one message and code 2, in place of a traceback, at what the user can mend.

    Args:
        debug: let the exception pass, with its traceback.
    """
    try:
        yield
    except USER_ERRORS as error:
        if debug or os.environ.get("FAPN_DEBUG", "0") != "0":
            raise
        who = f" (rank {comm.get_rank()})" if comm.get_world_size() > 1 else ""
        print(f"error{who}: {message_of(error)}\n(--debug shows where it comes from)", file=sys.stderr, flush=True)
        raise SystemExit(EXIT_USER_ERROR) from error


def message_of(error: BaseException) -> str:
    """The text of an error. PyTorch wraps a traceback around the text of an error in a loader process; not here."""
    text, name = str(error), type(error).__name__
    if not text.startswith(f"Caught {name} in "):
        return text
    heads = list(re.finditer(rf"^(?:[\w.]+\.)?{name}: ", text, re.MULTILINE))
    return text[heads[-1].end() :].strip() if heads else text


#: Exit code of a run that was asked to stop and saved its state: "try again" (EX_TEMPFAIL), with ``--resume``.
EXIT_STOPPED = 75


def some(names: Iterable, limit: int = 3) -> str:
    """The first few names, for messages: "a, b, c, ..."."""
    names = sorted(str(n) for n in names)
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
