"""The command line that all ``datasets/prepare_*.py`` share."""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ...messages import user_errors_as_messages
from .catalog import data_root


def parser(documentation: str, folder: str) -> argparse.ArgumentParser:
    """The command line of a program in ``datasets/``: ``--root`` and ``--workers``.

    Args:
        documentation: the program's docstring.
        folder: name of the data set's folder below the data root.
    """
    made = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--root", type=Path, help=f"folder of the data set (default: {folder} in $DETECTRON2_DATASETS or in datasets)"
    )
    made.add_argument(
        "--workers", type=int, default=min(8, os.cpu_count() or 1), help="processes (default %(default)s)"
    )
    made.set_defaults(folder=folder)
    return made


def images_of_splits(found: Mapping[str, int], released: Mapping[str, int]) -> str:
    """The result of a program: how many images each split has here and in the release."""
    return ", ".join(f"{found[s]} images for {s} (the release has {n})" for s, n in released.items())


def run_program(made: argparse.ArgumentParser, main: Callable, arguments: Sequence[str] | None) -> None:
    """Parse the arguments, run ``main(root, args)`` and print its result.

    An error that the user can fix ends the program with one message.
    """
    args = made.parse_args(arguments)
    root = args.root or Path(data_root()) / args.folder
    with user_errors_as_messages():
        if not root.is_dir():
            raise FileNotFoundError(f"folder {root} is absent; unpack the download there, or give its place by --root")
        print(f"{root}: {main(root, args)}")
