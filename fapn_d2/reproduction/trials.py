"""Our own comparisons (``configs/trials``): a record for each run in ``runs/``, and the table of its README."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..config.loading import CONFIGS
from ..files import write_json
from .markdown import markdown_table

RECORDS = CONFIGS / "trials" / "runs"
#: Config -> what it trains; rows of FPN's Table 1, on few images.
RPN_ABLATIONS = {
    "rpn_Lite0_C5_coco": "(b) C5 alone",
    "rpn_Lite0_FPN_coco": "(c) FPN",
    "rpn_Lite0_FPN_bottom_up_coco": "(d) no top-down pathway",
    "rpn_Lite0_FPN_no_lateral_coco": "(e) no lateral connections",
    "rpn_Lite0_FPN_P2_coco": "(f) P2 alone",
}
#: Names of the scores, as in ``results.json``, that the table shows.
RECALLS = ("AR@100", "AR@1000", "ARs@1000", "ARm@1000", "ARl@1000")


def record_of(folder: Path) -> dict:
    """The record of a finished run: what ``run.json`` says, and its scores. Folders of the machine are left out.

    Raises:
        FileNotFoundError: the run is not finished, or was not scored.
    """
    for name in ("run.json", "results.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name} is missing: tools/train_net.py writes it when it has scored a run"
            )
    run = json.loads((folder / "run.json").read_text())
    run["command"] = re.sub(r"(?<![\w/])/\S*/", "", run["command"])
    return {**run, "results": json.loads((folder / "results.json").read_text())}


def add_record(folder: Path, records: Path = RECORDS) -> Path:
    """Write the record of a finished run to ``records``, under the name of its config; returns the file."""
    record = record_of(folder)
    path = records / f"{Path(record['config_file']).stem}.json"
    records.mkdir(parents=True, exist_ok=True)
    write_json(str(path), record)
    return path


def recall_table(records: Path = RECORDS, rows: Mapping[str, str] = RPN_ABLATIONS) -> str:
    """Average recall of box proposals, in percent, of the runs that have a record; as Markdown."""
    lines: list[Sequence[str]] = []
    for name, meaning in rows.items():
        path = records / f"{name}.json"
        cells = ["not measured"] + [""] * (len(RECALLS) - 1)
        if path.is_file():
            scores = json.loads(path.read_text())["results"]["box_proposals"]
            cells = [f"{scores[metric]:.1f}" for metric in RECALLS]
        lines.append([meaning, f"`{name}.yaml`", *cells])
    return markdown_table(["row of Table 1", "config", *RECALLS], lines)
