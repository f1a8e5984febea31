"""The processes that ``srun`` started, read from SLURM's environment, so that they become one run.

Without this, each task of ``srun -n 8`` would believe that it is alone, and all would write into one folder.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

#: Ports for the rendezvous are taken from here on; below are those of the system and of well-known services.
_FIRST_PORT, _PORTS = 20000, 40000


@dataclass(frozen=True)
class SlurmStep:
    """The place of this process among the tasks of its job step.

    Attributes:
        rank: the number of this task, from 0 to ``size`` - 1.
        size: the number of tasks of the step.
        local_rank: the number of this task on its node.
        local_size: the number of tasks on its node.
        address: the name or address of the node of task 0.
        port: a port for the rendezvous. All tasks of a step compute the same one; other jobs get others.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str
    port: int

    @property
    def url(self) -> str:
        """The address of the rendezvous, for ``torch.distributed``."""
        return f"tcp://{self.address}:{self.port}"


def slurm_step(environment: Mapping[str, str] = os.environ) -> SlurmStep | None:
    """The step that this process belongs to, or None if ``srun`` did not start it together with others.

    MASTER_ADDR and MASTER_PORT take precedence over what SLURM says, for clusters whose nodes have several names.

    Args:
        environment: the variables that ``srun`` sets for each task.

    Returns:
        None outside of SLURM, in a batch script without ``srun``, and for a step of one task.

    Raises:
        ValueError: nodes have different numbers of tasks, or the tasks are not numbered node by node. Detectron2 needs
            both.
    """
    if int(environment.get("SLURM_STEP_NUM_TASKS", "1")) < 2 or "SLURM_PROCID" not in environment:
        return None
    rank, size = int(environment["SLURM_PROCID"]), int(environment["SLURM_STEP_NUM_TASKS"])
    local_rank, node = int(environment["SLURM_LOCALID"]), int(environment.get("SLURM_NODEID", "0"))
    per_node = tasks_per_node(environment.get("SLURM_STEP_TASKS_PER_NODE", str(size)))
    if len(set(per_node)) > 1:
        raise ValueError(
            f"srun started {', '.join(map(str, per_node))} tasks on the nodes of this step; each node needs the same "
            "number: ask for --ntasks-per-node"
        )
    if rank != node * per_node[0] + local_rank:
        raise ValueError(
            f"task {rank} is number {local_rank} on node {node}, so the tasks are not numbered node by node: call srun "
            "with --distribution=block"
        )
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "localhost")
    key = int(environment.get("SLURM_JOB_ID", "0")) * 31 + int(environment.get("SLURM_STEP_ID", "0"))
    return SlurmStep(
        rank=rank,
        size=size,
        local_rank=local_rank,
        local_size=per_node[0],
        address=environment.get("MASTER_ADDR") or first_host(nodes),
        port=int(environment.get("MASTER_PORT") or _FIRST_PORT + key % _PORTS),
    )


def tasks_per_node(text: str) -> list[int]:
    """The numbers in SLURM's short form: "4(x2),3" is [4, 4, 3]."""
    numbers = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if found is None:
            raise ValueError(f"SLURM_STEP_TASKS_PER_NODE is {text!r}, which is not a list such as 4(x2),3")
        numbers += [int(found[1])] * int(found[2] or 1)
    return numbers


def first_host(nodes: str) -> str:
    """The first node of SLURM's short form: "gpu[07-09,12],big1" gives "gpu07"."""
    found = re.match(r"([^\[,]+)(?:\[([^\]]+)\]([^,\[]*))?", nodes)
    if found is None:
        raise ValueError(f"SLURM's list of nodes is {nodes!r}, in which no node can be found; set MASTER_ADDR")
    number = re.split(r"[-,]", found[2])[0] if found[2] else ""
    return found[1] + number + (found[3] or "")
