"""Users' own Python files, which register data sets, models or anything else before a command starts."""

import argparse
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

#: Absolute paths of the files that are loaded, in order. Processes that are started later load the same files.
imported: list[str] = []


def add_import_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--import FILE``, whose values ``args.imports`` go to :func:`import_files`."""
    parser.add_argument(
        *("--import",),
        dest="imports",
        action="append",
        default=[],
        metavar="FILE",
        help="run a Python file first, which registers data sets, models, ... (may be given several times)",
    )


def import_files(paths: Iterable[str | Path]) -> None:
    """Run Python files, each once per process. Its folder is searched for further imports while it runs.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: it is not a Python file, or it registers a name that is taken.
    """
    for path in paths:
        file = Path(path).expanduser().resolve()
        if not file.is_file():
            raise FileNotFoundError(f"--import {path}: the file does not exist")
        if file.suffix != ".py":
            raise ValueError(f"--import {path}: the file must be a Python file that ends in .py")
        if str(file) in imported:
            continue
        _run(file)
        imported.append(str(file))


def _run(file: Path) -> None:
    name = f"fapn_d2_user_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # what the file defines can be sent to other processes
    sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
    except AssertionError as error:  # Detectron2's and fvcore's registries say in this way that a name is taken
        raise ValueError(f"--import {file}: {error or 'AssertionError'}") from error
    finally:
        sys.path.remove(str(file.parent))
