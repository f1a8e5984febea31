"""READMEs below configs/: rows, files and links that they name exist, and every folder has one."""

import re
from pathlib import Path

import pytest

from fapn_d2.reproduction.ledger import load_ledgers

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
READMES = sorted(CONFIGS.rglob("README.md"))


def test_every_paper_and_the_quickstart_have_one():
    folders = {path.parent.name for path in CONFIGS.glob("*/tables.yaml")} | {"quickstart", "configs"}
    assert folders <= {path.parent.name for path in READMES}


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.parent.name)
def test_what_it_names_exists(path):
    text = path.read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("https://") or (path.parent / link).exists(), link
    for config in re.findall(r"configs/[\w/]+\.yaml", text):
        assert (CONFIGS.parent / config).is_file() or config.startswith("configs/mine/"), config
    ids = [row.id for ledger in load_ledgers() for row in ledger.rows]
    for command, row in re.findall(r"tools/reproduce\.py (list|show|run) ([\w.]+)", text):
        assert any(i.startswith(row) for i in ids) if command == "list" else row in ids, row
