"""The record of a run: command, commit, config hash, versions and device."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import detectron2
import numpy as np
import torch
import torchvision
from detectron2.config import CfgNode
from detectron2.utils import comm

from ..config.hashing import full_config_hash
from ..version import __version__


def describe_run(cfg: CfgNode, config_file: str) -> dict:
    """The facts that are needed to repeat a run, and where it goes on.

    They are: command, config and its hash, commit, seed, versions, device, host, job of SLURM, number of restarts by
    SLURM or torchrun, time.
    """
    return {
        "command": shlex.join(sys.argv),
        "config_file": config_file,
        "config_sha256": full_config_hash(cfg),
        "commit": git_commit(),
        "seed": cfg.SEED,
        "processes": comm.get_world_size(),
        "device": device_name(torch.device(cfg.MODEL.DEVICE)),
        "host": platform.node(),
        "job": os.environ.get("SLURM_JOB_ID", ""),
        "restarts": int(os.environ.get("SLURM_RESTART_COUNT") or os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": versions(),
    }


def git_commit() -> str:
    """The commit of the checkout of this package, with "+changes" if files were edited; else "unknown"."""
    command = ["git", "-C", os.path.dirname(os.path.abspath(__file__))]
    try:
        commit = subprocess.run([*command, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run([*command, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


def describe_machine(device: torch.device) -> dict[str, object]:
    """The device, the versions, the number of threads and the command: the facts that two tables must share."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "command": " ".join(["tools/benchmark.py", *sys.argv[1:]]),
        "commit": git_commit(),
        "python": platform.python_version(),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "tf32": torch.backends.cuda.matmul.allow_tf32 if device.type == "cuda" else None,
        "versions": versions(),
    }


def versions() -> dict[str, str | None]:
    """Version by name: this package, Python, and the packages whose version may change results or speed.

    None: the package is not installed.
    """
    return {
        "fapn_d2": __version__,
        "detectron2": detectron2.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "triton": _version("triton"),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def device_name(device: torch.device) -> str:
    """The name of the GPU, or of the processor for the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
