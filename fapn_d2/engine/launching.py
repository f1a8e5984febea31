"""Starting one process or many, on GPUs or the CPU, and ending them with a clear message and exit code.

Detectron2's ``launch`` needs CUDA up to v0.6, uses one fixed port for all runs of a user, passes no signals on, and
ends every failure with a traceback.

Exit codes: 0 done; 1 a failure, with traceback; 2 the user can mend it, and the message says how; 75 asked to stop,
state saved, to be continued with ``--resume``.
"""

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import multiprocessing as mp

from ..messages import EXIT_STOPPED, EXIT_USER_ERROR

#: Longest wait for another process; the scoring of a large data set happens in one of them.
TIMEOUT = timedelta(hours=2)


def under_torchrun() -> bool:
    """Whether ``torchrun`` started this process, as one of those it was asked for."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def launch(
    main: Callable,
    *,
    processes: int,
    machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    use_cuda: bool = True,
    args: tuple = (),
) -> Any:
    """Call ``main(*args)`` in one process, or in ``processes`` of them on each of ``machines``.

    Under ``torchrun`` this process is one of many already, and the numbers given here do not count.

    Args:
        main: importable from a module, not a lambda, when there are several processes.
        processes: on this machine; one GPU each with ``use_cuda``.
        machines: each of them calls ``launch`` with its own ``machine_rank``.
        machine_rank: 0 to machines - 1.
        dist_url: where rank 0 listens, "tcp://<address>:<port>"; "auto" takes a free port of this machine.
        use_cuda: NCCL and a GPU a process; otherwise gloo on the CPU.

    Returns:
        What ``main`` returns, with one process or under torchrun; else None.

    Raises:
        ValueError: more processes than GPUs, or several machines without an address.
        SystemExit: a process ended with a code other than 0; the same code.
    """
    if under_torchrun():
        local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        _join(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), local_rank, local_size, "env://", use_cuda)
        with _leaving_together():
            return main(*args)
    if use_cuda and processes > torch.cuda.device_count():
        raise ValueError(f"--num-gpus {processes}, but this machine has {torch.cuda.device_count()}")
    if processes < 1 or machines < 1 or not 0 <= machine_rank < machines:
        raise ValueError(f"--num-gpus {processes} --num-machines {machines} --machine-rank {machine_rank} do not fit")
    if processes * machines == 1:
        return main(*args)
    if dist_url == "auto":
        if machines > 1:
            raise ValueError("several machines need --dist-url tcp://<address of machine 0>:<free port>")
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    context = mp.start_processes(
        _work,
        nprocs=processes,
        args=(
            *(main, processes * machines, processes, machine_rank, dist_url, use_cuda),
            *(mp.get_start_method(), args),
        ),
        join=False,
        start_method="spawn",
    )
    with _passing_signals_to(context.processes):
        try:
            while not context.join():
                pass
        except (mp.ProcessExitedException, mp.ProcessRaisedException) as error:
            if EXIT_USER_ERROR in [process.exitcode for process in context.processes]:
                # That process has printed its message; the others failed because they lost the connection to it.
                raise SystemExit(EXIT_USER_ERROR) from None
            if isinstance(error, mp.ProcessRaisedException):
                print(error, file=sys.stderr)
                raise SystemExit(1) from None
            raise SystemExit(error.exit_code if error.exit_code > 0 else 128 - error.exit_code) from None
    return None


def _work(
    local_rank: int,
    main: Callable,
    world_size: int,
    local_size: int,
    machine_rank: int,
    dist_url: str,
    use_cuda: bool,
    start_method: str,
    args: tuple,
) -> None:
    # Loader processes would inherit "spawn" and each import PyTorch anew; they start as they do in a single process.
    mp.set_start_method(start_method, force=True)
    if not use_cuda:  # each process would otherwise start a thread for every core
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_size))
    _join(machine_rank * local_size + local_rank, world_size, local_rank, local_size, dist_url, use_cuda)
    with _leaving_together():
        main(*args)


@contextlib.contextmanager
def _leaving_together() -> Iterator[None]:
    """Take down the connections between processes, which PyTorch asks for, where it is sure that all of them end."""
    try:
        yield
    except SystemExit as end:
        if end.code == EXIT_STOPPED:  # agreed by all; any other end may be this process's alone
            dist.destroy_process_group()
        raise
    comm.synchronize()
    dist.destroy_process_group()


def _join(rank: int, world_size: int, local_rank: int, local_size: int, url: str, use_cuda: bool) -> None:
    """Make this process one of ``world_size``, with the groups that Detectron2's ``comm`` needs."""
    if use_cuda:
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if use_cuda else "gloo", url, timeout=TIMEOUT, world_size=world_size, rank=rank)
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(local_size)
    else:  # Detectron2 v0.6 sets the group inside its own launcher only
        for first in range(0, world_size, local_size):
            group = dist.new_group(list(range(first, first + local_size)))
            if first <= rank < first + local_size:
                comm._LOCAL_PROCESS_GROUP = group
    comm.synchronize()


@contextlib.contextmanager
def _passing_signals_to(processes: list) -> Iterator[None]:
    """SIGTERM and SIGUSR1 to this process go to the workers, which save their state (hooks.py), not to it."""

    def forward(number: int, frame: Any) -> None:
        for process in processes:
            if process.is_alive():
                os.kill(process.pid, number)

    previous = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
