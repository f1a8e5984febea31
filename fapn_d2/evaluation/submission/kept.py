"""Whether the predictions in a folder come from one complete evaluation.

Evaluations write into the same folder one after the other. ``complete.json`` is removed when an evaluation begins and
written when it has ended, so an archive never mixes the predictions of two evaluations.
"""

import json
import os
from datetime import datetime
from pathlib import Path

from detectron2.utils import comm

from ...files import write_atomically

COMPLETE = "complete.json"


def begin(folder: str | os.PathLike) -> None:
    """Record that an evaluation that writes to ``folder`` begins. Only the main process does this."""
    if comm.is_main_process():
        (Path(folder) / COMPLETE).unlink(missing_ok=True)


def end(folder: str | os.PathLike, origin: dict) -> None:
    """Record that the evaluation has ended, if ``folder`` exists. Only the main process does this.

    Args:
        folder: the folder of the evaluation.
        origin: the origin of the predictions: "config" and "weights".
    """
    if comm.is_main_process() and os.path.isdir(folder):
        content = {**origin, "ended": datetime.now().astimezone().isoformat(timespec="seconds")}
        path = os.path.join(folder, COMPLETE)
        write_atomically(path, lambda file: file.write(json.dumps(content, indent=1).encode()))


def origin(folder: str | os.PathLike) -> dict:
    """The origin of the predictions in ``folder``, and the time when the evaluation ended.

    Raises:
        FileNotFoundError: the folder does not exist, or no evaluation has ended there.
    """
    path = Path(folder) / COMPLETE
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is absent: no evaluation has ended there, or one of an earlier version of this project; evaluate "
            "again by tools/train_net.py --eval-only with TEST.KEEP_PREDICTIONS True"
        )
    return json.loads(path.read_text())
