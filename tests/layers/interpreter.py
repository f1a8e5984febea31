"""Running a file of tests with Triton's interpreter, which must be switched on before Triton is imported."""

import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from packaging.version import Version


def output_in_the_interpreter(name: str) -> str:
    """What pytest prints for the file ``name`` of this folder in a process of its own; its tests must pass."""
    triton = pytest.importorskip("triton")
    if Version(triton.__version__) < Version("3.9") and Version(numpy.__version__) >= Version("2.4"):
        pytest.skip("the interpreter of older Tritons makes a number of an array, which numpy 2.4 refuses")
    path = Path(__file__).parent / name
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "1"})
    assert result.returncode == 0, result.stdout[-4000:]
    return result.stdout
