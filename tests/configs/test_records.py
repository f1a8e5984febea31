"""Records of runs in the repository: what they promise, and the table that shows them."""

import json

import pytest

from fapn_d2.config.loading import CONFIGS

RECORDS = sorted((CONFIGS / "quickstart" / "runs").glob("*.json"))
README = (CONFIGS / "quickstart" / "README.md").read_text()


def test_there_are_records():
    assert {path.stem for path in RECORDS} >= {"panopticfcn_FPN_shapes_overfit", "panoptic_MaskFormer_FaPN_shapes"}


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_network_that_learnt_by_heart(path):
    record = json.loads(path.read_text())
    scores = record["results"]["panoptic_seg"]
    assert scores["PQ"] > 50
    assert (CONFIGS.parent / record["config_file"]).stem == path.stem
    assert (CONFIGS.parent / record["config_file"]).is_file() and f"--config-file {record['config_file']}" in README
    cells = [f"{scores[name]:.1f}" for name in ("PQ", "SQ", "RQ", "PQ_th", "PQ_st")]
    assert f"| `{path.stem}.yaml` | {' | '.join(cells)} |" in README


def test_every_line_of_the_table_has_a_record():
    table = README.split("| config | PQ |")[1].split("\n\n")[0].splitlines()[2:]
    assert {line.split("`")[1].removesuffix(".yaml") for line in table} == {path.stem for path in RECORDS}
