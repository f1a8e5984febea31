"""Running the programs in datasets/ as a user does."""

import importlib.util
from pathlib import Path
from types import ModuleType


def program(name: str) -> ModuleType:
    """``datasets/<name>.py`` as a module."""
    path = Path(__file__).resolve().parents[2] / "datasets" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name: str, root: Path, *arguments: str) -> None:
    """The program on a folder, in this process."""
    program(name).main(["--root", str(root), "--workers", "0", *arguments])
