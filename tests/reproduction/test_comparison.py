"""Runs beside each other: what is read, averaged, drawn, and refused."""

import json

import pytest
from PIL import Image

from fapn_d2.reproduction.comparison import comparison_table, draw_losses, shared_losses
from fapn_d2.reproduction.runs import Group, read_losses


def write_run(folder, *, miou, losses, config="a.yaml", times=(1.0, 3.0, 2.0), wrap=False):
    folder.mkdir()
    results = {"sem_seg": {"mIoU": miou, "pACC": 80.0, "IoU-Sky": 9.0}}
    (folder / "results.json").write_text(json.dumps({"some_set": results} if wrap else results))
    (folder / "run.json").write_text(json.dumps({"config_file": config}))
    lines = [
        {"iteration": 20 * n + 19, "time": time, "total_loss": 5.0 - n, "lr": 0.1, **dict.fromkeys(losses, 4.0 - n)}
        for n, time in enumerate(times)
    ]
    (folder / "metrics.json").write_text("\n".join(map(json.dumps, [*lines, {"iteration": 60, "sem_seg/mIoU": miou}])))
    return folder


@pytest.fixture
def runs(tmp_path):
    plain = [write_run(tmp_path / f"plain{n}", miou=miou, losses=["loss_a"]) for n, miou in enumerate((30.0, 32.0))]
    ours = write_run(tmp_path / "ours", miou=31.5, losses=["loss_a", "loss_b"], config="b.yaml", times=(7.0,))
    return plain, ours


def groups_of(runs):
    plain, ours = runs
    return [Group.parse(f"plain={plain[0]},{plain[1]}"), Group.parse(f"ours={ours}")]


def test_table_has_means_deviations_and_differences(runs):
    lines = comparison_table(groups_of(runs)).splitlines()
    assert lines[0] == "|  | runs | sem_seg mIoU | sem_seg pACC | s an iteration |"  # no single classes
    assert lines[2] == "| plain | 2 | 31.0 ± 1.4 | 80.0 ± 0.0 | 2.00 |"
    assert lines[3] == "| ours | 1 | 31.5 (+0.5) | 80.0 (+0.0) | 7.00 |"


def test_chosen_scores(runs):
    table = comparison_table(groups_of(runs), ["sem_seg/IoU-Sky"])
    assert "| plain | 2 | 9.0 ± 0.0 | 2.00 |" in table and "mIoU" not in table


def test_unknown_score_is_named_with_what_there_is(runs):
    with pytest.raises(
        ValueError, match=r"no score 'sem_seg/PQ' in .*plain0.*; all runs have sem_seg/mIoU, sem_seg/pACC"
    ):
        comparison_table(groups_of(runs), ["sem_seg/PQ"])


def test_first_of_several_test_sets(tmp_path):
    run = write_run(tmp_path / "run", miou=12.0, losses=[], wrap=True)
    assert Group.parse(f"x={run}").score("sem_seg/mIoU") == (12.0, None)


def test_losses_that_only_some_have_are_named_and_the_total_left_out(runs, tmp_path):
    groups = groups_of(runs)
    assert shared_losses(groups) == (["total_loss", "loss_a"], ["loss_b"])
    path = tmp_path / "losses.png"
    assert draw_losses(groups, path) == ["loss_b"]
    one_chart = Image.open(path).size
    draw_losses(groups[:1], path)  # total_loss and loss_a
    assert Image.open(path).size[0] > 1.5 * one_chart[0]


def test_iterations_logged_again_after_a_resumption_count_once(tmp_path):
    path = tmp_path / "metrics.json"
    entries = [(19, 3.0), (39, 2.0), (39, 1.0), (59, 0.5)]
    path.write_text("\n".join(json.dumps({"iteration": i, "loss_x": v, "total_loss": v}) for i, v in entries))
    assert read_losses(path) == {
        "total_loss": [(20, 3.0), (40, 1.0), (60, 0.5)],
        "loss_x": [(20, 3.0), (40, 1.0), (60, 0.5)],
    }


def test_what_is_no_list_of_runs(runs):
    plain, ours = runs
    with pytest.raises(ValueError, match="write NAME=FOLDER"):
        Group.parse(str(ours))
    with pytest.raises(ValueError, match=r"the runs of x have different configs: a\.yaml, b\.yaml"):
        Group.parse(f"x={plain[0]},{ours}")
    (ours / "results.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"results.json is missing.*--resume"):
        Group.parse(f"x={ours}")
