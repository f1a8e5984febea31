"""The environment that ``make install`` makes."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

PINS = Path(__file__).resolve().parents[1] / "requirements" / "constraints.txt"


def test_detectron2s_model_zoo_can_be_imported():
    pinned = re.search(r"^setuptools==(\S+)$", PINS.read_text(), re.MULTILINE).group(1)
    assert int(pinned.split(".")[0]) < 82  # the last with pkg_resources, which model_zoo imports
    if int(version("setuptools").split(".")[0]) >= 82:
        pytest.skip("this environment has a newer setuptools than the pinned one")
    program = "from detectron2 import model_zoo; print(model_zoo.get_config_file('Base-RetinaNet.yaml'))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.strip().endswith("Base-RetinaNet.yaml"), done.stderr
