"""One folder, one run: a second training with the same OUTPUT_DIR is refused while the first one lives."""

import atexit
import contextlib
import json
import logging
import os
import socket
import threading
import time
from datetime import datetime
from pathlib import Path

logger = logging.getLogger(__name__)

LOCK = "run.lock"
#: Seconds between two signs of life of a holder, which other machines look at.
_BEAT = 20.0
#: Seconds without a sign of life after which a holder on another machine is dead.
_DEAD = 120.0

_held: set[Path] = set()


def hold(folder: str) -> None:
    """Take the lock of ``folder`` until this process ends. A holder that has died is replaced.

    On the same machine the holder is alive if its process is. On another machine it is alive if it has touched the lock
    within two minutes, by the clock of the shared disk. A SLURM job replaces its own earlier start at once.

    Raises:
        ValueError: another process holds the lock; the message names its host, process number and start.
    """
    path = (Path(folder) / LOCK).resolve()
    if path in _held:
        return
    own = {"host": socket.gethostname(), "pid": os.getpid(), "started": _start_of(os.getpid())}
    own["since"] = datetime.now().astimezone().isoformat(timespec="seconds")
    own["job"] = os.environ.get("SLURM_JOB_ID", "")
    for _ in range(5):
        mine = path.with_name(f"{LOCK}.{own['host']}.{own['pid']}")
        mine.write_text(json.dumps(own))
        try:
            os.link(mine, path)  # atomic, also on NFS
        except FileExistsError:
            holder = _read(path)
            if holder and _alive(holder, path, now=mine.stat().st_mtime, job=own["job"]):
                raise ValueError(
                    f"OUTPUT_DIR {folder} is in use by process {holder['pid']} on {holder['host']} since "
                    f"{holder['since']}; wait for its end, or choose another OUTPUT_DIR"
                ) from None
            _remove_dead(path, holder, mine.with_name(f"{mine.name}.dead"))
            continue
        except OSError as error:  # a file system without hard links
            logger.warning("%s cannot be locked (%s): do not start a second run with this OUTPUT_DIR", folder, error)
            return
        finally:
            mine.unlink(missing_ok=True)
        _held.add(path)
        atexit.register(_release, path, own)
        threading.Thread(target=_beat, args=(path,), daemon=True, name="folder lock").start()
        return
    raise ValueError(f"OUTPUT_DIR {folder}: other runs are starting there now; choose another OUTPUT_DIR")


def _alive(holder: dict, path: Path, *, now: float, job: str) -> bool:
    if holder["host"] == socket.gethostname():
        return _start_of(holder["pid"]) == holder["started"] != ""
    if job and job == holder["job"]:
        return False
    try:
        return now - path.stat().st_mtime < _DEAD
    except FileNotFoundError:
        return False


def _remove_dead(path: Path, holder: dict | None, aside: Path) -> None:
    """Remove the lock of a dead holder, unless another process has replaced it meanwhile."""
    with contextlib.suppress(OSError):
        os.rename(path, aside)
        if _read(aside) != holder:
            os.link(aside, path)
        aside.unlink()


def _read(path: Path) -> dict | None:
    try:
        holder = json.loads(path.read_text())
        return holder if {"host", "pid", "started", "since", "job"} <= set(holder) else None
    except (OSError, ValueError, TypeError):
        return None


def _start_of(pid: int) -> str:
    """When a process started, in ticks since the start of the machine; "" if it does not live."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]


def _beat(path: Path) -> None:
    while path in _held:
        time.sleep(_BEAT)
        with contextlib.suppress(OSError):
            os.utime(path)


def _release(path: Path, own: dict) -> None:
    _held.discard(path)
    if os.getpid() == own["pid"] and _read(path) == own:
        path.unlink(missing_ok=True)
