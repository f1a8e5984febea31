"""Starting one process or many, on GPUs or the CPU, and ending them with a clear message and exit code.

Detectron2's ``launch`` needs CUDA up to v0.6. It uses one fixed port for all runs of a user. It does not forward
signals, and it ends every failure with a traceback.

The exit codes are listed in ``fapn_d2.messages``.
"""

import argparse
import contextlib
import faulthandler
import multiprocessing
import os
import pickle
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import multiprocessing as mp

from ..config.user_code import add_import_argument, import_files, imported
from ..messages import EXIT_STOPPED, EXIT_USER_ERROR
from .parallel import end_with_parent
from .signals import EXIT_INTERRUPTED, SIGNALS, Stopped, catching_signals
from .slurm import SlurmStep, slurm_step

#: Longest wait for another process, in minutes. One process scores a large data set while the others wait.
TIMEOUT = 120

#: Seconds that the other processes get to end by themselves after one has failed.
_GRACE = 5
#: The same after one has ended with code 75: rank 0 may still be saving.
_GRACE_STOPPED = 60


def under_torchrun() -> bool:
    """Whether ``torchrun`` started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def started_together(machines: int = 1, dist_url: str = "auto") -> bool:
    """Whether ``torchrun`` or ``srun`` started the processes of this run. Each of them then calls :func:`launch`.

    Args:
        machines: see :func:`launch`.
        dist_url: see :func:`launch`.
    """
    return under_torchrun() or _step(machines, dist_url) is not None


def _step(machines: int, dist_url: str) -> SlurmStep | None:
    """The tasks of ``srun``, unless the command line has a rendezvous of its own."""
    return slurm_step() if machines == 1 and dist_url == "auto" else None


def launch(
    main: Callable,
    *,
    processes: int,
    machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    use_cuda: bool = True,
    timeout: float = TIMEOUT,
    args: tuple = (),
) -> Any:
    """Call ``main(*args)`` in one process, or in ``processes`` of them on each of ``machines``.

    Under ``torchrun`` the processes exist already, and the numbers given here are ignored. All processes handle signals
    (signals.py). If one of several processes dies, the others are ended, and a message names it. If this process or the
    agent of torchrun dies, all of them end.

    Several tasks of ``srun`` also exist already and join one run: either one task per process, or one task per node
    that starts ``processes``. Tasks with ``machines`` or a ``dist_url`` of their own are left to these.

    Args:
        main: the function to call. For several processes it must be importable from a module.
        processes: the number of processes on this machine. With ``use_cuda``, each process uses one GPU.
        machines: the number of machines. Each of them calls ``launch`` with its own ``machine_rank``.
        machine_rank: the number of this machine, from 0 to machines - 1.
        dist_url: the address where rank 0 listens, "tcp://<address>:<port>"; "auto" chooses a free port here.
        use_cuda: whether to use NCCL and one GPU per process; otherwise gloo on the CPU.
        timeout: the longest wait for another process, in minutes.
        args: the arguments of ``main``.

    Returns:
        The return value of ``main`` for one process or under torchrun, otherwise None.

    Raises:
        ValueError: there are more processes than GPUs, several machines without an address, or several tasks per node
            that shall each start several processes.
        SystemExit: a process ended with a code other than 0. The code is the same.
    """
    if under_torchrun():
        local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        end_with_parent()
        with catching_signals():
            _join(rank, world_size, local_rank, local_size, "env://", use_cuda, timeout)
            with _leaving_together():
                return main(*args)
    if (step := _step(machines, dist_url)) is not None:
        if processes == 1:
            end_with_parent()
            _set_threads(step.local_size, use_cuda)
            with catching_signals():
                _join(step.rank, step.size, step.local_rank, step.local_size, step.url, use_cuda, timeout)
                with _leaving_together():
                    return main(*args)
        if step.local_size > 1:
            raise ValueError(
                f"srun started {step.local_size} tasks on this node, and each shall start {processes} processes "
                f"(--num-gpus {processes}): ask for --ntasks-per-node=1, or leave --num-gpus out for one GPU per task"
            )
        machines, machine_rank, dist_url = step.size, step.rank, step.url
    if use_cuda and processes > torch.cuda.device_count():
        raise ValueError(f"--num-gpus {processes}, but this machine has {torch.cuda.device_count()}")
    if processes < 1 or machines < 1 or not 0 <= machine_rank < machines:
        raise ValueError(f"--num-gpus {processes} --num-machines {machines} --machine-rank {machine_rank} do not fit")
    if processes * machines == 1:
        with catching_signals():
            return main(*args)
    if dist_url == "auto":
        if machines > 1:
            raise ValueError("several machines need --dist-url tcp://<address of machine 0>:<free port>")
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    with _passing_signals_to([]) as workers:
        # New processes inherit the blocked signals, and receive them once they have set their handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
        try:
            context = mp.start_processes(
                _work,
                nprocs=processes,
                args=(
                    *(main, processes * machines, processes, machine_rank, dist_url, use_cuda, timeout),
                    *(mp.get_start_method(), list(imported), args),
                ),
                join=False,
                start_method="spawn",
            )
            workers += context.processes
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _BLOCKED)
        _wait(context, first_rank=machine_rank * processes)
    return None


_BLOCKED = set(SIGNALS) - {signal.SIGINT}


def _wait(context: mp.ProcessContext, *, first_rank: int) -> None:
    """Wait for the processes of ``context``. If one fails, end the others.

    Raises:
        SystemExit: see :func:`launch`.
    """
    processes = context.processes
    running = {process.sentinel: process for process in processes}
    while running:
        for sentinel in multiprocessing.connection.wait(list(running)):
            process = running.pop(sentinel)
            process.join()
            if process.exitcode != 0:
                running.clear()
                break
    codes = {n: process.exitcode for n, process in enumerate(processes) if process.exitcode}
    if not codes:
        return
    failed = min(codes, key=codes.get)  # a signal (below 0) comes first: the others fail for lack of that process
    code = processes[failed].exitcode
    others = [(first_rank + n, process) for n, process in enumerate(processes) if process.is_alive()]
    if code == EXIT_STOPPED:
        for _, process in others:
            process.terminate()
    elif code < 0:
        who = f"rank {first_rank + failed} (process {processes[failed].pid})"
        print(f"error: {who} was ended by {_name_of(-code)}. All other ranks are ended.", file=sys.stderr, flush=True)
    elif "imed out" in _traceback_of(context, failed):
        _report_hanging(first_rank + failed, others)
    try:
        context.join(grace_period=_GRACE_STOPPED if code == EXIT_STOPPED else _GRACE)
    except (mp.ProcessExitedException, mp.ProcessRaisedException) as error:
        if EXIT_USER_ERROR in [process.exitcode for process in processes]:
            # That process has printed its message. The others failed because they lost the connection to it.
            raise SystemExit(EXIT_USER_ERROR) from None
        if code > 0 and isinstance(error, mp.ProcessRaisedException):
            print(error, file=sys.stderr)
        raise SystemExit(code if code > 0 else 128 - code) from None


def _traceback_of(context: mp.ProcessContext, number: int) -> str:
    try:
        return str(pickle.loads(Path(context.error_files[number]).read_bytes()))
    except (OSError, EOFError, pickle.UnpicklingError):
        return ""


def _report_hanging(rank: int, others: list) -> None:
    """Say in which state the other ranks are, and let those that run print where they are."""
    print(f"error: rank {rank} waited too long for the others (DISTRIBUTED.TIMEOUT):", file=sys.stderr)
    for other, process in others:
        state = _state_of(process.pid)
        about = "is stopped (SIGSTOP)" if state in "tT" else "runs; it prints where"
        print(f"  rank {other} (process {process.pid}) {about}", file=sys.stderr, flush=True)
        if state not in "tT":
            os.kill(process.pid, signal.SIGABRT)  # faulthandler.enable in _work
    time.sleep(1)


def _state_of(pid: int) -> str:
    """The letter that /proc gives for the state of a process; "?" if it is unknown."""
    try:
        return re.search(r"\) (\w)", Path(f"/proc/{pid}/stat").read_text())[1]
    except (OSError, TypeError):
        return "?"


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how many processes a command starts, under Detectron2's names, and ``--import``."""
    add_import_argument(parser)
    parser.add_argument("--num-gpus", type=int, default=1, help="processes on this machine, on the CPU too")
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0)
    parser.add_argument("--dist-url", default="auto", help="tcp://<address of machine 0>:<port> for several machines")


def launch_as_asked(main: Callable, args: argparse.Namespace, *, use_cuda: bool, timeout: float = TIMEOUT) -> Any:
    """:func:`launch` ``main(args)`` with the processes that a command line asks for.

    Args:
        main: see :func:`launch`.
        args: the arguments with the options of :func:`add_launch_arguments`.
        use_cuda, timeout: see :func:`launch`.
    """
    return launch(
        main,
        processes=args.num_gpus,
        machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        use_cuda=use_cuda,
        timeout=timeout,
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
    timeout: float,
    start_method: str,
    files: list[str],
    args: tuple,
) -> None:
    end_with_parent(os.getppid())
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which passes it on as SIGTERM
    # Loader processes would inherit "spawn" and import PyTorch again. They shall start as in a single process.
    mp.set_start_method(start_method, force=True)
    _set_threads(local_size, use_cuda)
    import_files(files)
    with catching_signals():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _BLOCKED)
        _join(machine_rank * local_size + local_rank, world_size, local_rank, local_size, dist_url, use_cuda, timeout)
        with _leaving_together():
            main(*args)


def _set_threads(processes: int, use_cuda: bool) -> None:
    """Share the cores of this job between processes on the CPU; each would otherwise start one thread per core.

    OMP_NUM_THREADS is respected. The job's affinity counts, not the cores of the machine: another job may have those.

    Args:
        processes: the number of processes that share the cores.
        use_cuda: whether the processes compute on GPUs; then nothing is set.
    """
    if not use_cuda and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))


@contextlib.contextmanager
def _leaving_together() -> Iterator[None]:
    """Close the connections between processes, as PyTorch requires, if all processes end together."""
    try:
        yield
    except SystemExit as end:
        # All ranks have agreed to stop. With another code, or in an evaluation, only this process may end.
        if end.code == EXIT_STOPPED and not isinstance(end, Stopped):
            dist.destroy_process_group()
        raise
    comm.synchronize()
    dist.destroy_process_group()


def device_of(local_rank: int, devices: int) -> int:
    """The number of the GPU of a process. A task that sees one GPU only (``--gpus-per-task 1``) uses this one.

    Args:
        local_rank: the number of the process on its machine.
        devices: the number of GPUs that the process sees.

    Raises:
        ValueError: there are fewer GPUs than processes.
    """
    if devices == 1:
        return 0
    if local_rank >= devices:
        raise ValueError(
            f"process {local_rank} of this machine needs a GPU of its own, but {devices} are visible: start {devices} "
            "processes, or ask SLURM for --gpus-per-node"
        )
    return local_rank


def _join(
    rank: int, world_size: int, local_rank: int, local_size: int, url: str, use_cuda: bool, timeout: float
) -> None:
    """Make this process one of ``world_size``, with the groups that Detectron2's ``comm`` needs."""
    if use_cuda:
        torch.cuda.set_device(device_of(local_rank, torch.cuda.device_count()))
    backend, limit = "nccl" if use_cuda else "gloo", timedelta(minutes=timeout)
    dist.init_process_group(backend, url, timeout=limit, world_size=world_size, rank=rank)
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(local_size)
    else:  # Detectron2 v0.6 sets the group only in its own launcher
        for first in range(0, world_size, local_size):
            group = dist.new_group(list(range(first, first + local_size)))
            if first <= rank < first + local_size:
                comm._LOCAL_PROCESS_GROUP = group
    comm.synchronize()


@contextlib.contextmanager
def _passing_signals_to(processes: list) -> Iterator[list]:
    """Forward the signals that ask to stop from this process to the workers, which save their state (signals.py).

    Before there are workers, a signal ends this process with code 75. Ctrl-C is forwarded as SIGTERM. A second Ctrl-C
    ends all at once.
    """
    interrupted = False

    def forward(number: int, frame: Any) -> None:
        nonlocal interrupted
        if number == signal.SIGINT and interrupted:
            for process in processes:
                process.kill()
            os._exit(EXIT_INTERRUPTED)
        interrupted |= number == signal.SIGINT
        if not processes:
            os._exit(EXIT_STOPPED)
        for process in processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGTERM if number == signal.SIGINT else number)

    if threading.current_thread() is not threading.main_thread():
        yield processes
        return
    known = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, forward) for number in known}
    try:
        yield processes
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
