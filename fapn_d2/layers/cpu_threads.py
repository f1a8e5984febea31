"""Work in portions, each on a thread of its own in which torch's operators run alone.

torch spreads every operator over a team of OpenMP threads that meet at its end. Where operators are many and short and
the processors have other work (data loaders, a second job), one thread that waits for its turn holds up all others at
each of these meetings. Portions meet once, at the end of all of them. They also use all processors where operators are
too small to be spread.
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}
_lock = threading.Lock()


def spread(work: Callable[[Any], None], portions: Sequence) -> None:
    """Call ``work`` on each portion, on as many threads as torch has (``torch.get_num_threads()``).

    To be called where autograd does not record, as inside of an operator.

    Args:
        work: runs torch operators and writes where no other portion writes.
        portions: what it is called on, in any order; if fewer than threads, each gets an equal part of the threads.

    Raises:
        Exception: what ``work`` raises for the first portion that fails; the others are still worked on.
    """
    threads = torch.get_num_threads()
    workers = min(threads, len(portions))
    if workers < 2:
        for portion in portions:
            work(portion)
        return
    # Modes are each thread's own. Without one autograd would record, and tensors of inference mode refuse writing.
    mode = torch.inference_mode() if torch.is_inference_mode_enabled() else torch.no_grad()
    for _ in _pool(workers, threads // workers).map(mode(work), portions):
        pass


def _pool(workers: int, threads: int) -> ThreadPoolExecutor:
    """``workers`` threads, in each of which torch's operators have ``threads`` threads."""
    with _lock:
        if (workers, threads) not in _pools:
            _pools[workers, threads] = _start(workers, threads)
        return _pools[workers, threads]


def _start(workers: int, threads: int) -> ThreadPoolExecutor:
    ours = torch.get_num_threads()
    all_there = threading.Barrier(workers + 1)

    def limit() -> None:
        torch.get_num_threads()  # the first call in a thread takes over the process's number: not after ours
        torch.set_num_threads(threads)
        all_there.wait()

    pool = ThreadPoolExecutor(workers, thread_name_prefix="fapn_d2")
    for _ in range(workers):
        pool.submit(limit)
    all_there.wait()
    torch.set_num_threads(ours)  # for this thread nothing has changed, but for threads that start later
    return pool


def _forget() -> None:
    """Threads do not live on in a forked process, nor whoever held the lock."""
    global _lock
    _pools.clear()
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forget)
