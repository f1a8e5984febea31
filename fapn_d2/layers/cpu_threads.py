"""Parallel work on the CPU: each portion of the work runs on its own thread, and torch does not split it further.

torch itself splits every operator over a team of OpenMP threads that wait for each other at its end. Where operators
are many and short and the processors have other work (data loaders, a second job), one delayed thread delays all others
at the end of each operator. Portions wait for each other only once, at the end of the work. They also use all
processors where each operator is too small for torch to split it.
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

    Call this only where autograd does not record, for example inside an operator.

    Args:
        work: function of one portion. It runs torch operators and writes only where no other portion writes.
        portions: the arguments of the calls, which are made in any order. If there are fewer portions than threads,
            each gets an equal share of the threads.

    Raises:
        Exception: the exception that ``work`` raised for the first portion that failed. The other portions are still
            worked on.
    """
    threads = torch.get_num_threads()
    workers = min(threads, len(portions))
    if workers < 2:
        for portion in portions:
            work(portion)
        return
    # Each thread has its own grad mode. By default autograd would record, and tensors of inference mode could not be
    # written.
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
        # A thread's first call copies the number of the process, so it must not come after ours.
        torch.get_num_threads()
        torch.set_num_threads(threads)
        all_there.wait()

    pool = ThreadPoolExecutor(workers, thread_name_prefix="fapn_d2")
    for _ in range(workers):
        pool.submit(limit)
    all_there.wait()
    torch.set_num_threads(ours)  # threads that start later take over the last number that any thread has set
    return pool


def _forget() -> None:
    """A forked process has no threads: neither those of the pools nor the one that may have held the lock."""
    global _lock
    _pools.clear()
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forget)
