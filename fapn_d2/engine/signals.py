"""What a process does when it is asked to stop, at any time of a run.

Job schedulers, terminals and users ask by a signal: SIGTERM, SIGUSR1, SIGUSR2 (submitit), SIGINT (Ctrl-C) and SIGHUP (a
closed terminal). The answer depends on what the process does at that time:

- Before the first iteration: it leaves at once with code 75. There is nothing to save.
- In an iteration, or while a checkpoint is written: it finishes the iteration, all ranks agree, rank 0 saves.
- In an evaluation: it breaks off, rank 0 saves. If the main thread is blocked, a second thread saves in its place.

A second Ctrl-C leaves at once with code 130. All other repeated signals have no effect.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from detectron2.utils import comm

from ..files import write_text_atomically
from ..messages import EXIT_STOPPED

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)
#: Exit code after a second Ctrl-C, as the shell gives it for a process that SIGINT has ended.
EXIT_INTERRUPTED = 130
#: Name of the file in OUTPUT_DIR that says that a run was stopped and what it saved.
MARKER = "stopped.txt"

#: Seconds from a signal in an evaluation until another thread acts for a main thread that is blocked.
_PATIENCE = 4.0
#: Seconds that the other ranks wait for rank 0 to save. With the above, all have left after ten.
_WAIT_FOR_RANK_0 = 8.0
#: One Ctrl-C may arrive twice within this time, in seconds: from the terminal and from a parent.
_SAME_KEY = 0.3


class Stopped(SystemExit):
    """An evaluation was broken off because of a signal. Its exit code is 75."""

    def __init__(self, name: str):
        super().__init__(EXIT_STOPPED)
        self.signal_name = name


class StopSignals:
    """The handlers of one process, and what they do at each time.

    Attributes:
        folder: OUTPUT_DIR, where :meth:`mark` writes; None before it is known.
        received: the number of the first signal, or None.
    """

    def __init__(self):
        self.folder: str | None = None
        self.received: int | None = None
        self._phase = "start"
        self._on_request: Callable[[], None] | None = None
        self._save: Callable[[], None] | None = None
        self._leaving = threading.Lock()
        self._interrupted = 0.0
        self._previous: dict[int, Any] = {}

    @property
    def name(self) -> str:
        """The name of the first signal."""
        return signal.Signals(self.received).name if self.received else "no signal"

    @contextlib.contextmanager
    def training(self, on_request: Callable[[], None], save: Callable[[], None]) -> Iterator[None]:
        """In this context, signals call ``on_request``, and the training loop stops after its iteration.

        Args:
            on_request: called at the first signal, in the main thread.
            save: saves the state of the training; called at a signal in :meth:`evaluation` on every rank.
        """
        before = self._phase, self._on_request, self._save
        self._phase, self._on_request, self._save = "training", on_request, save
        try:
            yield
        finally:
            # After an evaluation was broken off, further signals must not disturb the exit.
            self._phase, self._on_request, self._save = before if self.received is None else ("end", None, None)

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """In this context, a signal breaks off what is going on.

        Raises:
            Stopped: a signal came here or earlier. The training, if any, is saved.
        """
        before = self._phase
        self._phase = "evaluation"
        try:
            if self.received is not None:
                raise Stopped(self.name)
            yield
        except BaseException as error:
            if self.received is None:
                raise
            # A job scheduler also ends loader processes and other ranks, which then fails in many ways here.
            raise self._break_off() from (None if isinstance(error, Stopped) else error)
        finally:
            self._phase = before if self.received is None else "end"

    def mark(self, text: str) -> None:
        """Write ``text`` to :data:`MARKER` in :attr:`folder`: under torchrun and srun the exit code 75 may get lost."""
        if self.folder and comm.is_main_process():
            with contextlib.suppress(OSError):
                os.makedirs(self.folder, exist_ok=True)
                write_text_atomically(Path(self.folder) / MARKER, f"{text}\n")

    def remove_mark(self) -> None:
        """Remove the file of :meth:`mark`: the run goes on."""
        if self.folder and comm.is_main_process():
            with contextlib.suppress(OSError):
                (Path(self.folder) / MARKER).unlink(missing_ok=True)

    def install(self) -> None:
        """Set the handlers. Signals that are ignored, as under nohup, stay ignored; submitit keeps SIGUSR2."""
        for number in SIGNALS:
            previous = signal.getsignal(number)
            if previous is signal.SIG_IGN or str(getattr(previous, "__module__", "")).startswith("submitit"):
                continue
            self._previous[number] = signal.signal(number, self._handle)
        # Python's handlers run only in the main thread, between two of its instructions. The thread learns of a signal
        # at once, also while the main thread waits for another rank.
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._previous_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(self._read,), daemon=True, name="stop signals").start()

    def uninstall(self) -> None:
        """Set the earlier handlers again."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_fd)
        os.close(self._write)  # which ends the thread

    def forget(self) -> None:
        """In a forked child, which is not asked to save anything: back to the default handlers."""
        for number in self._previous:
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)

    def _handle(self, number: int, frame: Any) -> None:
        if self.received is not None:
            return
        self.received = number
        if self._phase == "training" and self._on_request:
            self._on_request()
        elif self._phase == "evaluation":
            raise Stopped(self.name)

    def _watch(self, pipe: int) -> None:
        with open(pipe, "rb", buffering=0) as signals:
            while byte := signals.read(1):
                number = byte[0]
                if number not in self._previous:
                    continue
                if number == signal.SIGINT:
                    now = time.monotonic()
                    if self._interrupted and now - self._interrupted > _SAME_KEY:
                        _leave(EXIT_INTERRUPTED, "Interrupted twice: leaving at once. Nothing more was saved.")
                    self._interrupted = self._interrupted or now
                if self._phase == "start":
                    self._leave_at_start(number)
                elif self._phase == "evaluation":
                    threading.Timer(_PATIENCE, self._act_for_main_thread, args=(number,)).start()

    def _leave_at_start(self, number: int) -> None:
        name = signal.Signals(number).name
        if self.folder and not (Path(self.folder) / MARKER).exists():
            self.mark(f"stopped by {name} before the first iteration, nothing was to be saved; start again")
        who = f"Rank {comm.get_rank()}: stopped" if comm.get_world_size() > 1 else "Stopped"
        _leave(EXIT_STOPPED, f"{who} by {name} before the first iteration: nothing was to be saved.")

    def _act_for_main_thread(self, number: int) -> None:
        if self._phase != "evaluation" or not self._leaving.acquire(blocking=False):
            return
        self.received = self.received or number
        self._finish()
        _leave(EXIT_STOPPED, f"Stopped by {self.name} in an evaluation.")

    def _break_off(self) -> Stopped:
        if not self._leaving.acquire(blocking=False):
            time.sleep(3600)  # the other thread is saving, and ends this process
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch raises here when a loader process ends
        self._finish()
        return Stopped(self.name)

    def _finish(self) -> None:
        if self._save is None:
            logger.warning("Evaluation stopped by %s: nothing was to be saved. Start it again.", self.name)
        elif comm.is_main_process():
            self._save()
        else:  # this rank's end may end rank 0, which must have saved
            deadline = time.monotonic() + _WAIT_FOR_RANK_0
            while not (Path(self.folder or ".") / MARKER).exists() and time.monotonic() < deadline:
                time.sleep(0.1)


_current: StopSignals | None = None


@contextlib.contextmanager
def catching_signals() -> Iterator[StopSignals]:
    """Handle signals in this context, if this is the main thread. A context inside of another one is the same."""
    global _current
    if _current is not None:
        yield _current
        return
    stop = StopSignals()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    stop.install()
    _current = stop
    try:
        yield stop
    finally:
        _current = None
        stop.uninstall()


def current_signals() -> StopSignals:
    """The handlers of this process; without effect where none are set."""
    return _current or StopSignals()


def handles_signals() -> bool:
    """Whether this process is in :func:`catching_signals`."""
    return _current is not None


def _in_child() -> None:
    global _current
    if _current is not None:
        _current.forget()
        _current = None


os.register_at_fork(after_in_child=_in_child)


def _leave(code: int, message: str) -> None:
    print(message, file=sys.stderr, flush=True)
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os._exit(code)
