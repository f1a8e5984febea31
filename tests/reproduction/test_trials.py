"""Records of our own trials, and the table that shows them."""

import json

import pytest

from fapn_d2.config.loading import CONFIGS, load_config
from fapn_d2.reproduction.trials import RECORDS, RPN_ABLATIONS, add_record, recall_table, record_of


def test_the_readme_shows_the_records():
    text = (RECORDS.parent / "README.md").read_text()
    assert recall_table() in text, "write what tools/reproduce.py trials prints into configs/trials/README.md"


def test_rows_have_configs_with_one_budget():
    configs = [load_config(str(CONFIGS / "trials" / f"{name}.yaml")) for name in RPN_ABLATIONS]
    assert all(cfg.SOLVER == configs[0].SOLVER and cfg.INPUT == configs[0].INPUT for cfg in configs)
    assert {path.stem for path in RECORDS.glob("rpn_*.json")} <= RPN_ABLATIONS.keys()


@pytest.mark.parametrize("path", sorted(RECORDS.glob("*.json")), ids=lambda path: path.stem)
def test_records_name_their_config_and_no_folder_of_a_machine(path):
    record = json.loads(path.read_text())
    assert record["config_file"] == f"configs/trials/{path.stem}.yaml"
    assert " /" not in record["command"] and {"commit", "seed", "device", "versions"} <= record.keys()


def test_a_record_and_its_line(tmp_path):
    scores = {"AR@100": 10.04, "AR@1000": 20.0, "ARs@1000": 1.0, "ARm@1000": 30.26, "ARl@1000": 40.0}
    run = {"command": "tools/train_net.py MODEL.WEIGHTS /a/b/w.pth", "config_file": "configs/trials/rpn_b.yaml"}
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(run))
    with pytest.raises(FileNotFoundError, match=r"results\.json is missing"):
        record_of(folder)
    (folder / "results.json").write_text(json.dumps({"box_proposals": scores}))
    path = add_record(folder, tmp_path / "records")
    assert path.name == "rpn_b.json" and json.loads(path.read_text())["command"].endswith("MODEL.WEIGHTS w.pth")
    first, second = recall_table(path.parent, {"rpn_a": "A", "rpn_b": "B"}).splitlines()[2:]
    assert first == "| A | `rpn_a.yaml` | not measured |  |  |  |  |"
    assert second == "| B | `rpn_b.yaml` | 10.0 | 20.0 | 1.0 | 30.3 | 40.0 |"
