"""Starting one process or many, on GPUs or the CPU, and ending them with a clear message and exit code.

Detectron2's ``launch`` needs CUDA up to v0.6. It uses one fixed port for all runs of a user. It does not forward
signals, and it ends every failure with a traceback.

The exit codes are listed in ``fapn_d2.messages``.
"""

import argparse
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

from ..config.user_code import add_import_argument, import_files, imported
from ..messages import EXIT_STOPPED, EXIT_USER_ERROR

#: Longest wait for another process. One process scores a large data set while the others wait.
TIMEOUT = timedelta(hours=2)


def under_torchrun() -> bool:
    """Whether ``torchrun`` started this process."""
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

    Under ``torchrun`` the processes exist already, and the numbers given here are ignored.

    Args:
        main: the function to call. For several processes it must be importable from a module.
        processes: the number of processes on this machine. With ``use_cuda``, each process uses one GPU.
        machines: the number of machines. Each of them calls ``launch`` with its own ``machine_rank``.
        machine_rank: the number of this machine, from 0 to machines - 1.
        dist_url: the address where rank 0 listens, "tcp://<address>:<port>"; "auto" chooses a free port here.
        use_cuda: whether to use NCCL and one GPU per process; otherwise gloo on the CPU.
        args: the arguments of ``main``.

    Returns:
        The return value of ``main`` for one process or under torchrun, otherwise None.

    Raises:
        ValueError: there are more processes than GPUs, or several machines without an address.
        SystemExit: a process ended with a code other than 0. The code is the same.
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
            *(mp.get_start_method(), list(imported), args),
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
                # That process has printed its message. The others failed because they lost the connection to it.
                raise SystemExit(EXIT_USER_ERROR) from None
            if isinstance(error, mp.ProcessRaisedException):
                print(error, file=sys.stderr)
                raise SystemExit(1) from None
            raise SystemExit(error.exit_code if error.exit_code > 0 else 128 - error.exit_code) from None
    return None


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how many processes a command starts, under Detectron2's names, and ``--import``."""
    add_import_argument(parser)
    parser.add_argument("--num-gpus", type=int, default=1, help="processes on this machine, on the CPU too")
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0)
    parser.add_argument("--dist-url", default="auto", help="tcp://<address of machine 0>:<port> for several machines")


def launch_as_asked(main: Callable, args: argparse.Namespace, *, use_cuda: bool) -> Any:
    """:func:`launch` ``main(args)`` with the processes that a command line asks for.

    Args:
        main: see :func:`launch`.
        args: with the options of :func:`add_launch_arguments`.
        use_cuda: see :func:`launch`.
    """
    return launch(
        main,
        processes=args.num_gpus,
        machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        use_cuda=use_cuda,
        args=(args,),
    )


def _work(
    local_rank: int,
    main: Callable,
    world_size: int,
    local_size: int,
    machine_rank: int,
    dist_url: str,
    use_cuda: bool,
    start_method: str,
    files: list[str],
    args: tuple,
) -> None:
    # Loader processes would inherit "spawn" and import PyTorch again. They shall start as in a single process.
    mp.set_start_method(start_method, force=True)
    if not use_cuda:  # each process would otherwise start one thread per core
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_size))
    import_files(files)
    _join(machine_rank * local_size + local_rank, world_size, local_rank, local_size, dist_url, use_cuda)
    with _leaving_together():
        main(*args)


@contextlib.contextmanager
def _leaving_together() -> Iterator[None]:
    """Close the connections between processes, as PyTorch requires, if all processes end together."""
    try:
        yield
    except SystemExit as end:
        if end.code == EXIT_STOPPED:  # all ranks agreed to stop; with another code, only this process may end
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
    else:  # Detectron2 v0.6 sets the group only in its own launcher
        for first in range(0, world_size, local_size):
            group = dist.new_group(list(range(first, first + local_size)))
            if first <= rank < first + local_size:
                comm._LOCAL_PROCESS_GROUP = group
    comm.synchronize()


@contextlib.contextmanager
def _passing_signals_to(processes: list) -> Iterator[None]:
    """Forward SIGTERM and SIGUSR1 from this process to the workers, which save their state (hooks.py)."""

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
