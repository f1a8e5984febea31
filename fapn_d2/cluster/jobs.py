"""A command of this project as a SLURM job that saves, requeues itself and goes on, by submitit.

Before the time limit, and at a preemption, SLURM sends a signal to all processes. The training saves its state and
leaves with code 75, and the batch script asks SLURM to start it again. The second start calls the same command, which
contains ``--resume`` or continues by itself. A failed node makes SLURM start the job again without asking.
"""

import os
import runpy
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config.loading import CONFIGS
from ..messages import EXIT_STOPPED

TOOLS = CONFIGS.parent / "tools"


class ClusterJob:
    """What a SLURM job calls in each of its tasks; submitit stores it in a file beside the logs.

    Args:
        tool: the name of a program in ``tools``, without ``.py``.
        words: its arguments.
        requeues: how often the job may be started again.
    """

    def __init__(self, tool: str, words: Sequence[str], requeues: int):
        self.tool = tool
        self.words = list(words)
        self.requeues = requeues

    def __call__(self) -> None:
        """Call the program in this process.

        Raises:
            SystemExit: the program ended with a code other than 0, or the job was started too often.
        """
        restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        if restarts > self.requeues:
            message = (
                f"This job was started again {restarts} times, and --requeues allows {self.requeues}. It ends here."
            )
            print(message, file=sys.stderr, flush=True)
            raise SystemExit(1)
        # submitit would requeue at once, before anything is saved. The program and the batch script do better.
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, signal.SIG_DFL)
        program = str(TOOLS / f"{self.tool}.py")
        sys.argv = [program, *self.words]
        runpy.run_path(program, run_name="__main__")

    def checkpoint(self) -> Any:
        """What submitit calls at a signal that comes before the program handles signals: start again as before."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@dataclass(frozen=True)
class Request:
    """What is asked of SLURM; names and meanings are those of ``sbatch``.

    Attributes:
        name: of the job.
        logs: a folder on a disk that all nodes share; logs are ``<job>_<task>_log.out`` in it.
        nodes: the number of nodes.
        tasks_per_node: the number of processes per node.
        gpus_per_node: the number of GPUs per node; 0: none.
        cpus_per_task: the number of cores per process.
        minutes: the time limit of one start.
        grace: seconds between the signal and the end of the time limit.
        requeues: how often the job may be started again.
        setup: shell lines before the command.
        srun: further arguments of ``srun``.
        sbatch: further options of ``sbatch``, without "--".
    """

    name: str
    logs: Path
    nodes: int = 1
    tasks_per_node: int = 1
    gpus_per_node: int = 0
    cpus_per_task: int = 1
    minutes: int = 60
    grace: int = 120
    requeues: int = 20
    setup: tuple[str, ...] = ()
    srun: tuple[str, ...] = ()
    sbatch: dict[str, Any] = field(default_factory=dict)

    def parameters(self) -> dict[str, Any]:
        """The keyword arguments of submitit's SLURM executor.

        Raises:
            ValueError: a number is out of range, or the signal would come before the start.
        """
        for option in ("nodes", "tasks_per_node", "cpus_per_task", "minutes", "grace"):
            if getattr(self, option) < 1:
                raise ValueError(f"--{option.replace('_', '-')} must be at least 1, got {getattr(self, option)}")
        for option in ("gpus_per_node", "requeues"):
            if getattr(self, option) < 0:
                raise ValueError(f"--{option.replace('_', '-')} must not be negative, got {getattr(self, option)}")
        if self.grace >= 60 * self.minutes:
            raise ValueError(
                f"--grace {self.grace} s is not shorter than --time ({60 * self.minutes} s): the signal to save would "
                "come at the start"
            )
        if self.gpus_per_node and self.tasks_per_node not in (1, self.gpus_per_node):
            raise ValueError(
                f"--tasks-per-node {self.tasks_per_node} does not fit --gpus-per-node {self.gpus_per_node}: each "
                "process of a training uses one GPU"
            )
        # srun does not take over the number of cores from sbatch since SLURM 22.05
        srun = (f"--cpus-per-task={self.cpus_per_task}", "--kill-on-bad-exit=0", *self.srun)
        return {
            "job_name": self.name,
            "nodes": self.nodes,
            "ntasks_per_node": self.tasks_per_node,
            "cpus_per_task": self.cpus_per_task,
            "time": self.minutes,
            "signal_delay_s": self.grace,
            "stderr_to_stdout": True,
            "srun_args": list(srun),
            "additional_parameters": {"requeue": True, **self.sbatch},
            "teardown": requeue_lines(self.requeues),
            **({"gpus_per_node": self.gpus_per_node} if self.gpus_per_node else {}),
            **({"setup": list(self.setup)} if self.setup else {}),
        }


def requeue_lines(requeues: int) -> list[str]:
    """Shell lines after ``srun``, which make SLURM start a stopped job again. The script ends with srun's code.

    The batch script does this, because processes that are asked to stop in an evaluation leave at once. Code 75 means
    that the state is saved, code 140 that the signal came before Python could handle it.
    """
    return [
        "code=$?",
        f'if [ "$code" -eq {EXIT_STOPPED} ] || [ "$code" -eq {128 + signal.SIGUSR2} ]; then',
        f'    if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {requeues} ]; then',
        f'        echo "The job was stopped. SLURM starts it again, at most {requeues} times."',
        '        scontrol requeue "$SLURM_JOB_ID"',
        "    else",
        f'        echo "The job was stopped. --requeues {requeues} is used up: submit the same command to go on."',
        "    fi",
        "fi",
        'exit "$code"',
    ]


def script(request: Request, jobs: int = 1) -> str:
    """The batch script that :func:`submit` would send for one job, or for an array of ``jobs``.

    Raises:
        ValueError: see :meth:`Request.parameters`; submitit is not installed.
    """
    submitit = _submitit()
    # The executor writes scripts only where SLURM is installed. This is the function that it calls.
    command = f"{sys.executable} -u -m submitit.core._submit {request.logs}"
    return submitit.slurm.slurm._make_sbatch_string(
        command=command, folder=request.logs, **request.parameters(), **({"map_count": jobs} if jobs > 1 else {})
    )


def submit(request: Request, jobs: Sequence[ClusterJob], *, after: str = "") -> list[str]:
    """Send one job, or several as an array.

    Args:
        request: what each job needs.
        jobs: what each job calls.
        after: the number of a job that must end well first; "": none.

    Returns:
        The numbers of the jobs.

    Raises:
        ValueError: see :meth:`Request.parameters`; there is no SLURM here, or it refuses the job.
    """
    submitit = _submitit()
    parameters = request.parameters() | ({"dependency": f"afterok:{after}"} if after else {})
    try:
        executor = submitit.SlurmExecutor(folder=request.logs, max_num_timeout=request.requeues)
    except RuntimeError:
        raise ValueError(
            "there is no SLURM on this machine (srun is not on the PATH): call this command on a login node, or use "
            "--dry-run to see the script"
        ) from None
    executor.update_parameters(**parameters)
    try:
        if len(jobs) == 1:
            return [executor.submit(jobs[0]).job_id]
        with executor.batch():
            sent = [executor.submit(job) for job in jobs]
    except submitit.core.utils.FailedJobError as error:
        raise ValueError(f"SLURM refused the job: {str(error).strip()}") from None
    return [job.job_id for job in sent]


def _submitit() -> Any:
    try:
        import submitit
        import submitit.slurm.slurm
    except ImportError:
        raise ValueError("this command needs submitit: .venv/bin/pip install submitit") from None
    return submitit


def minutes(text: str) -> int:
    """A time limit in minutes, rounded up, from SLURM's forms: "90", "1:30:00", "2-00:00:00".

    Raises:
        ValueError: the text is none of these.
    """
    days, dash, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in (*parts, *([days] if dash else []))) or len(parts) > 3:
        raise ValueError(
            f"--time {text} is not a time; allowed are minutes, MM:SS, HH:MM:SS, DAYS-HH and DAYS-HH:MM:SS"
        )
    numbers = [int(part) for part in parts]
    if dash:  # the first number is hours
        hours, mins, seconds = (*numbers, 0, 0)[:3]
    else:
        hours, mins, seconds = (0, numbers[0], 0) if len(numbers) == 1 else (0, 0, *numbers)[-3:]
    return int(days or 0) * 1440 + hours * 60 + mins + (seconds > 0)
