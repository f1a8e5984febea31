"""A real SLURM on this machine: one controller and two nodes, without a cluster."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

CONFIG = """
ClusterName=test
SlurmctldHost=localhost
SlurmUser=root
AuthType=auth/none
CredType=cred/none
# a requeued job waits until its credentials are older than this
AuthInfo=cred_expire=10
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=10
MpiDefault=none
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODES = ("n1", "n2")


class Slurm:
    """A controller and nodes that run from :meth:`start` to :meth:`end`."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("state", *(f"spool.{node}" for node in NODES)):
            (folder / name).mkdir()
        ports = free_ports(1 + len(NODES))
        nodes = "\n".join(
            f"NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs=4 State=UNKNOWN"
            for node, port in zip(NODES, ports[1:])
        )
        (folder / "slurm.conf").write_text(CONFIG.format(ports=ports, folder=folder, nodes=nodes))
        #: For commands. The names of the nodes do not resolve, hence the address.
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "MASTER_ADDR": "127.0.0.1"}

    def start(self) -> None:
        self.call("slurmctld")
        for node in NODES:
            self.start_node(node)
        self.wait(lambda: self.call("sinfo", "-h", "-o", "%T").split() == ["idle"], 60, "nodes that are idle")

    def call(self, *words: str, check: bool = True) -> str:
        """Run a command of SLURM and return what it printed."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def start_node(self, node: str) -> None:
        self.call("slurmd", "-N", node)

    def kill_node(self, node: str) -> None:
        """kill -9 of a node's daemon and of all that it started, and what a health check then tells the controller."""
        daemon = int((self.folder / f"slurmd.{node}.pid").read_text())
        for number in (daemon, *self.tasks_of(node)):
            subprocess.run(["kill", "-9", str(number)], check=False)
        self.call("scontrol", "update", f"nodename={node}", "state=down", "reason=killed")

    def tasks_of(self, node: str) -> list[int]:
        """Processes that SLURM started on a node."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                variables = path.read_bytes().split(b"\0")
            except OSError:
                continue
            mine = f"SLURM_CONF={self.folder / 'slurm.conf'}".encode() in variables
            if mine and f"SLURMD_NODENAME={node}".encode() in variables:
                found.append(int(path.parent.name))
        return found

    def job(self, number: str) -> dict[str, str]:
        """What SLURM knows of a job: JobState, Restarts, ..."""
        text = self.call("scontrol", "-o", "show", "job", number)
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def wait(self, condition, seconds: float, what: str):
        """The first true value of ``condition()``."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := condition():
                return value
            time.sleep(0.5)
        logs = "\n".join(path.read_text()[-1500:] for path in self.folder.glob("*.log"))
        pytest.fail(f"waited {seconds} s for {what}\n{self.call('squeue', check=False)}\n{logs}")

    def end(self) -> None:
        self.call("scancel", "--user=root", "--signal=KILL", "--full", check=False)
        for node in NODES:
            for number in self.tasks_of(node):
                subprocess.run(["kill", "-9", str(number)], check=False)
        self.call("scontrol", "shutdown", check=False)


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    if not all(shutil.which(name) for name in ("slurmctld", "slurmd", "srun")) or os.getuid() != 0:
        pytest.skip("needs Debian's packages slurmctld, slurmd and slurm-client, and root to start them")
    pytest.importorskip("submitit")
    running = Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        running.start()
    except (AssertionError, pytest.fail.Exception, subprocess.TimeoutExpired) as error:
        running.end()
        pytest.skip(f"SLURM is installed, but does not start on this machine: {str(error)[:500]}")
    yield running
    running.end()
