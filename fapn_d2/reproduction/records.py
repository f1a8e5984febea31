"""What a run of a row gave, kept beside its weights, and the hash by which rows find their runs."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Name of a row's pretraining beside those of its networks.
PRETRAINING = "pretraining"


@dataclass(frozen=True)
class Record:
    """What one run of a row gave; the fields are those of the file."""

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
        """As JSON, whole or not at all."""
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(vars(self), indent=1))
        partial.rename(path)


def read_record(path: Path) -> Record:
    """Raises ValueError if the file is no record."""
    try:
        return Record(**json.loads(path.read_text()))
    except (TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a record of tools/reproduce.py: {error}; delete it to run again") from error


def read_records(output: Path) -> list[Record]:
    """Every record below ``output``, by path; none if there is no such folder."""
    return [read_record(path) for path in sorted(output.glob("*/seed*/record-*.json"))]
