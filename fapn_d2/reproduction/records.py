"""The outcome of a run of a ledger's row, in a file beside the weights."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import write_atomically

#: Name of a row's pretraining beside those of its networks.
PRETRAINING = "pretraining"
#: Name of the scores of a row's two networks together.
MERGED = "merged"
#: Name of the network that gives a row its proposals.
PROPOSALS = "proposals"
#: Names of the networks of a 4-step alternating training.
STEPS = ("step 1, RPN", "step 2, detector", "step 3, RPN", "step 4, detector")


@dataclass(frozen=True)
class Record:
    """The outcome of one run of a row; the fields are those of the file."""

    row: str
    network: str
    config: str
    changed: list[Any]
    seed: int
    config_hash: str
    iterations: int
    device: str
    processes: int
    commit: str
    results: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the record as JSON, atomically."""
        write_atomically(str(path), lambda file: file.write(json.dumps(vars(self), indent=1).encode()))


def read_record(path: Path) -> Record:
    """Read one record; raises ValueError if the file is not a record."""
    try:
        return Record(**json.loads(path.read_text()))
    except (TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a record of tools/reproduce.py: {error}; delete it to run again") from error


def read_records(output: Path) -> list[Record]:
    """Every record below ``output``, by path; none if there is no such folder."""
    return [read_record(path) for path in sorted(output.glob("*/seed*/record-*.json"))]
