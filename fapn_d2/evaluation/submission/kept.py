"""Whether the predictions in a folder are those of one evaluation that went to its end.

Evaluations write into the folder of the one before. ``complete.json`` is removed when one begins and written when it
has ended, so that an archive is never made of the predictions of two.
"""

import json
import os
from datetime import datetime
from pathlib import Path

from detectron2.utils import comm

from ...files import write_atomically

COMPLETE = "complete.json"


def begin(folder: str | os.PathLike) -> None:
    """An evaluation that writes to ``folder`` begins; only the main process does something."""
    if comm.is_main_process():
        (Path(folder) / COMPLETE).unlink(missing_ok=True)


def end(folder: str | os.PathLike, origin: dict) -> None:
    """It has ended, and ``folder`` exists if it kept anything; only the main process does something.

    Args:
        folder: of the evaluation.
        origin: what the predictions are of: "config" and "weights".
    """
    if comm.is_main_process() and os.path.isdir(folder):
        content = {**origin, "ended": datetime.now().astimezone().isoformat(timespec="seconds")}
        path = os.path.join(folder, COMPLETE)
        write_atomically(path, lambda file: file.write(json.dumps(content, indent=1).encode()))


def origin(folder: str | os.PathLike) -> dict:
    """What the predictions in ``folder`` are of, and when the evaluation ended.

    Raises:
        FileNotFoundError: there is no folder, or no evaluation has ended there.
    """
    path = Path(folder) / COMPLETE
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is absent: no evaluation has ended there, or one of an earlier version of this project; evaluate "
            "again by tools/train_net.py --eval-only with TEST.KEEP_PREDICTIONS True"
        )
    return json.loads(path.read_text())
