"""Rows -> jobs -> records -> report, with a stand-in for the training; and one real, small run."""

import json
import os
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fapn_d2.config.hashing import config_hash
from fapn_d2.reproduction import jobs as reproduce
from fapn_d2.reproduction.jobs import jobs_of, of_one_seed, run_job
from fapn_d2.reproduction.ledger import Alternating, Network, find_row, load_ledger, load_ledgers
from fapn_d2.reproduction.listing import describe_list, describe_row, describe_runs
from fapn_d2.reproduction.metrics import ELSEWHERE, PLACES, find
from fapn_d2.reproduction.numbers import Number, numbers_of, records_of
from fapn_d2.reproduction.records import STEPS, Record, read_record, read_records
from fapn_d2.reproduction.report import report, to_html, to_markdown
from tests.toys.coco import write_coco

ROOT = Path(__file__).resolve().parents[2]
# Writes what tools/train_net.py leaves behind; mIoU is 70 + seed.
STAND_IN = """
import json, pathlib, sys
options = sys.argv[1:]
value = lambda key: options[options.index(key) + 1]
folder = pathlib.Path(value("OUTPUT_DIR"))
folder.mkdir(parents=True, exist_ok=True)
if "--eval-only" not in options:
    (folder / "model_final.pth").touch()
with open(pathlib.Path(__file__).parent / "calls", "a") as calls:
    calls.write(" ".join(options) + "\\n")
if value("SEED") == "13":
    sys.exit(75)
score = 70.0 + int(value("SEED"))
results = {"sem_seg": {"mIoU": score, "IoU-sky": 1.0, "boundary_mIoU_3px": float("nan")}}
(folder / "results.json").write_text(json.dumps(results))
if "TEST.AUG.ENABLED" in options:
    (folder / "results-augmented.json").write_text(json.dumps({"sem_seg_TTA": {"mIoU": score + 1}}))
run = {"device": "a GPU", "processes": 2, "commit": "0123456789abcdef+changes"}
(folder / "run.json").write_text(json.dumps(run))
"""
LEDGER = """
paper: toy
title: Toys
tables:
- name: Table 1
  about: Toys on a table.
  rows:
  - {id: toy.t1.a, method: A, config: net.yaml, paper: {mIoU: 70.5, mIoU_3px: 40.0, params_M: 1.5},
     measured: {params: 1480000}, note: Toys are small.}
  - {id: toy.t1.b, method: B, config: net.yaml, overrides: {SOLVER.BASE_LR: 0.5}, paper: {mIoU: 72.0}}
  - {id: toy.t1.c, method: C, pending: no data, paper: {FPS: 142}}
- name: Table 2
  about: The same toys, larger.
  rows:
  - {id: toy.t2.a, method: A, config: net.yaml, overrides: {INPUT.MIN_SIZE_TEST: 900}, paper: {mIoU: 71.0}}
  - {id: toy.t2.d, method: D, config: net.yaml, overrides: {SOLVER.BASE_LR: 0.25}, paper: {mIoU: 73.0},
     measured: {runs: [{seed: 1, metrics: {mIoU: 72.0}, device: 8 x B, commit: c0ffee0, config_hash: abc}]}}
- name: Table 3
  about: A toy that had another toy before.
  rows:
  - {id: toy.t3.a, method: A, config: net.yaml, pretraining: {config: pre.yaml, overrides: {SOLVER.BASE_LR: 0.125}},
     paper: {mIoU: 74.0}}
"""


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    """A ledger of toys, and a stand-in for tools/train_net.py."""
    (tmp_path / "train.py").write_text(STAND_IN)
    (tmp_path / "net.yaml").write_text("SOLVER: {MAX_ITER: 100, STEPS: [50, 80], IMS_PER_BATCH: 8}")
    (tmp_path / "pre.yaml").write_text("SOLVER: {MAX_ITER: 200, STEPS: [50, 80], IMS_PER_BATCH: 8}")
    (tmp_path / "tables.yaml").write_text(LEDGER)
    monkeypatch.setattr(reproduce, "TRAIN_TOOL", tmp_path / "train.py")
    monkeypatch.setattr(reproduce, "PAIR_TOOL", tmp_path / "train.py")
    return load_ledger(tmp_path / "tables.yaml")


def row_of(ledger, row_id):
    return next(row for row in ledger.rows if row.id == row_id)


def calls(tmp_path):
    return (tmp_path / "calls").read_text().splitlines()


def test_a_row_is_trained_once_a_seed(ledger, tmp_path):
    jobs = list(jobs_of(row_of(ledger, "toy.t1.b"), seeds=2, output=tmp_path / "out"))
    records = [run_job(job, gpus=3) for job in jobs]
    first, second = calls(tmp_path)
    assert f"--config-file {tmp_path / 'net.yaml'} --num-gpus 3 --resume SOLVER.BASE_LR 0.5 SEED 1 " in first
    assert "SEED 2" in second and "seed2" in second
    assert [r.results["sem_seg"]["mIoU"] for r in records] == [71.0, 72.0]
    assert (records[0].iterations, records[0].device, records[0].processes) == (100, "a GPU", 2)
    assert [run_job(job, gpus=3) for job in jobs] == records == read_records(tmp_path / "out")
    assert len(calls(tmp_path)) == 2


def test_rows_of_one_training_share_it(ledger, tmp_path):
    """Table 2 tests Table 1's network at another size: its weights are scored, not trained again."""
    (trained,) = jobs_of(row_of(ledger, "toy.t1.a"), seeds=1, output=tmp_path / "out")
    (scored,) = jobs_of(row_of(ledger, "toy.t2.a"), seeds=1, output=tmp_path / "out")
    (other,) = jobs_of(row_of(ledger, "toy.t1.b"), seeds=1, output=tmp_path / "out")
    assert trained.folder == scored.folder != other.folder
    assert trained.record != scored.record
    run_job(trained, gpus=1)
    before = (trained.folder / "results.json").stat().st_mtime_ns
    run_job(scored, gpus=1)
    assert "--eval-only INPUT.MIN_SIZE_TEST 900" in calls(tmp_path)[1]
    assert f"MODEL.WEIGHTS {trained.folder / 'model_final.pth'}" in calls(tmp_path)[1]
    assert (trained.folder / "results.json").stat().st_mtime_ns == before


def test_a_pretraining_is_run_once_for_all_seeds(ledger, tmp_path):
    row, output = row_of(ledger, "toy.t3.a"), tmp_path / "out"
    pretraining, first, second = jobs_of(row, seeds=2, output=output)
    records = [run_job(job, gpus=1) for job in (pretraining, first, second)]
    before, *tuned = calls(tmp_path)
    assert f"pre.yaml --num-gpus 1 --resume SOLVER.BASE_LR 0.125 SEED 1 OUTPUT_DIR {pretraining.folder}" in before
    for job, call in zip((first, second), tuned):
        start = pretraining.folder / "model_final.pth"
        assert f"net.yaml --num-gpus 1 --resume MODEL.WEIGHTS {start} SEED {job.seed} " in call
    # what starts elsewhere is another training
    (plain,) = jobs_of(row_of(ledger, "toy.t1.a"), seeds=1, output=output)
    assert plain.folder != first.folder and plain.config_hash != first.config_hash
    texts = describe_runs(row, records)
    assert "toy.t3.a, 2 runs\n" in texts and "74.0 → 71.50 ± 0.71 (-2.50)" in texts
    block = report([ledger], read_records(output))[2]
    assert block.lines[0][2] == "74.0 → 71.50 ± 0.71 (-2.50)"
    (note,) = block.notes
    assert note.startswith("toy.t3.a: pretraining gave sem_seg/mIoU 71.00, ") and pretraining.config_hash in note
    assert len(report([ledger], read_records(output))) == 3  # no trials
    assert len(calls(tmp_path)) == 3 and list(jobs_of(row, seeds=2, output=output)) == [pretraining, first, second]


def test_a_pretraining_of_ones_own(ledger, tmp_path):
    row = row_of(ledger, "toy.t3.a")
    (job,) = jobs_of(row, seeds=1, output=tmp_path, options=["MODEL.WEIGHTS", "mine.pth"])
    assert job.start is None and "MODEL.WEIGHTS mine.pth" in " ".join(job.command(1))
    small = list(jobs_of(row, seeds=1, output=tmp_path, shrink=0.5))
    assert ["SOLVER.MAX_ITER" in job.changed for job in small] == [True, True]
    assert small[1].start == small[0].weights
    text = describe_row(row)
    assert (
        "pretraining, once for all seeds:" in text and "start      output/toy.t3.a/pretraining/model_final.pth" in text
    )
    assert text.count("OUTPUT_DIR output/toy.t3.a/pretraining") == 1


def test_a_run_that_stops_passes_its_exit_code_on(ledger, tmp_path):
    job = list(jobs_of(row_of(ledger, "toy.t1.a"), seeds=13, output=tmp_path / "out"))[-1]
    with pytest.raises(SystemExit) as stopped:
        run_job(job, gpus=1)
    assert stopped.value.code == 75 and not job.record.exists()


def test_errors(ledger, tmp_path):
    with pytest.raises(ValueError, match=r"toy\.t1\.c is not built yet: no data"):
        list(jobs_of(row_of(ledger, "toy.t1.c"), seeds=1, output=tmp_path))
    with pytest.raises(ValueError, match="--seeds must be at least 1, got 0"):
        list(jobs_of(row_of(ledger, "toy.t1.a"), seeds=0, output=tmp_path))
    with pytest.raises(ValueError, match=r"--shrink must be above 0 and at most 1, got 2\.0"):
        list(jobs_of(row_of(ledger, "toy.t1.a"), seeds=1, output=tmp_path, shrink=2.0))
    (tmp_path / "record.json").write_text("{}")
    with pytest.raises(ValueError, match=r"record\.json is not a record of tools/reproduce\.py.*delete it"):
        read_record(tmp_path / "record.json")


def test_the_hash_ignores_place_and_seed_and_sees_the_rest(ledger):
    network = row_of(ledger, "toy.t1.a").network
    same = ["OUTPUT_DIR", "elsewhere", "SEED", 7, "DATALOADER.NUM_WORKERS", 0, "TEST.EVAL_PERIOD", 5]
    assert config_hash(network.load(same)) == config_hash(network.load())
    assert config_hash(network.load(["SOLVER.BASE_LR", 0.3])) != config_hash(network.load())
    assert config_hash(network.load(["TEST.DETECTIONS_PER_IMAGE", 5])) != config_hash(network.load())
    assert config_hash(network.load(["TEST.DETECTIONS_PER_IMAGE", 5]), without=["TEST"]) == config_hash(
        network.load(), without=["TEST"]
    )


def test_numbers_have_mean_spread_and_difference():
    assert Number(70.5, ()).text == "70.5"
    assert Number(142, ()).text == "142"
    assert Number(70.5, (71.0,)).text == "70.5 → 71.00 (+0.50)"
    # 71, 72, 74: mean 72.333, deviations -1.333, -0.333, 1.667, variance 4.667 / 2
    assert Number(73.0, (71.0, 72.0, 74.0)).text == "73.0 → 72.33 ± 1.53 (-0.67)"
    assert Number(31.7, (31.698926,)).text == "31.7 → 31.70 (+0.00)"
    assert Number(73.0, (71.0, 72.0, 74.0), trials="median").text == "73.0 → 72.00, the median of 3 (-1.00)"
    assert Number(73.0, (71.0,), trials="median").text == "73.0 → 71.00 (-2.00)"


def test_the_report(ledger, tmp_path):
    output = tmp_path / "out"
    for name, seeds, shrink in (("toy.t1.a", 2, 1.0), ("toy.t2.a", 1, 1.0), ("toy.t1.b", 1, 0.5)):
        for job in jobs_of(row_of(ledger, name), seeds=seeds, output=output, shrink=shrink):
            run_job(job, gpus=1)
    blocks = report([ledger], read_records(output))
    titles = [("Toys", "Table 1"), ("Toys", "Table 2"), ("Toys", "Table 3"), ("", "Trials")]
    assert [(b.chapter, b.title) for b in blocks] == titles
    first, second, _, trials = (block.lines for block in blocks)
    assert blocks[0].header == ["row", "method", "mIoU", "mIoU_3px", "params_M", "FPS", "runs"]
    provenance = (
        f"seeds 1, 2; 2 x a GPU; commit 0123456 with changes; config {config_hash(ledger.rows[0].network.load())}"
    )
    assert first[0] == ["toy.t1.a", "A", "70.5 → 71.50 ± 0.71 (+1.00)", "40.0", "1.5 → 1.48 (-0.02)", "", provenance]
    # the shrunken run of this row is a trial
    assert first[1] == ["toy.t1.b", "B", "72.0", "", "", "", "not measured"]
    assert first[2] == ["toy.t1.c", "C", "", "", "", "142", "not built: no data"]
    assert second[0][2] == "71.0 → 71.00 (+0.00)"
    assert second[1][2:] == ["73.0 → 72.00 (-1.00)", "seed 1; 8 x B; commit c0ffee0; config abc"]
    ((started, _, changed, scores, ran, *_),) = trials
    assert started == "toy.t1.b" and "SOLVER.MAX_ITER 50; SOLVER.STEPS [25, 40]" in changed
    assert scores == "sem_seg/mIoU 71.00, sem_seg/boundary_mIoU_3px nan" and ran == "seed 1, 50 iterations"
    markdown, page = to_markdown(blocks), to_html(blocks)
    assert "| toy.t1.b | B | 72.0 |  |  |  | not measured |" in markdown
    assert markdown.count("\n## ") == 2 and markdown.count("\n### ") == 3
    assert "- toy.t1.a: Toys are small." in markdown and "<li>toy.t1.a: Toys are small.</li>" in page
    assert page.count('<tr class="measured">') == 4 and page.count("<h2>") == 2 and page.count("<h3>") == 3
    assert "http" not in page


def test_numbers_of_a_row_with_several_networks():
    results = {"sem_seg": {"mIoU": 40.0}}
    assert find(results, "mIoU_coco", "coco") == 40.0
    assert find(results, "AP_mask", "instances") is None
    assert find({"coco_2017_val": {"bbox": {"AP": 39.0}}}, "AP") == 39.0
    assert find({"sem_seg": {"IoU": 80.0, "IoU-traffic light": 60.0}}, "IoU_tlight") == 60.0
    with pytest.raises(ValueError, match="no evaluator is known to give 'beauty'; known are AP, "):
        find({}, "beauty")


def test_every_number_of_the_ledgers_has_a_place():
    for ledger in load_ledgers():
        for row in ledger.rows:
            for metric in row.paper if row.networks else ():
                own = {metric} | {metric.removesuffix(f"_{name}") for name in row.networks}
                assert own & (PLACES.keys() | ELSEWHERE.keys()), f"{row.id}: {metric}"


def test_rows_that_are_one_network_have_one_hash():
    """What the papers print twice, by other overrides or the same, is trained once."""
    ledgers = load_ledgers()
    for same in (
        ("fapn.t1.fapn_r50", "fapn.t2.fapn_r50", "fapn.t4.pointrend_r50_fapn"),
        ("augfpn.t2.cs", "augfpn.t3.all_0_25"),
        ("augfpn.t2.rfa", "augfpn.t4.asf_raap_123"),
        ("augfpn.t2.srs", "augfpn.t5.srs_asf"),
        ("augfpn.t2.baseline", "augfpn.t3.none", "augfpn.t4.baseline", "augfpn.t5.baseline"),
    ):
        assert len({config_hash(find_row(ledgers, row).network.load()) for row in same}) == 1, same


def test_sfnets_ways_of_testing_share_a_training(tmp_path):
    """SFNet-R101 is printed by windows, with mirror images, at several scales: one training, scored thrice."""
    rows = {name: find_row(load_ledgers(), f"sfnet.{name}") for name in ("t4.r101_fam", "t5.fam", "t7.sfnet_r101")}
    jobs = {name: next(jobs_of(row, seeds=1, output=tmp_path)) for name, row in rows.items()}
    assert len({job.folder for job in jobs.values()}) == 1 and len({job.record for job in jobs.values()}) == 3
    shown = {name: row.network.load().TEST.SEM_SEG for name, row in rows.items()}
    assert [node.MODE for node in shown.values()] == ["slide"] * 3
    assert [node.FLIP for node in shown.values()] == [False, True, True]
    assert [list(node.SCALES) for node in shown.values()] == [[1.0], [1.0], [0.75, 1.0, 1.25]]
    text = find_row(load_ledgers(), "sfnet.text2.sfnet_r101")  # repeats Table 4's number
    assert config_hash(text.network.load()) == config_hash(rows["t4.r101_fam"].network.load())


def test_texts(ledger, tmp_path):
    listing = describe_list([ledger])
    assert "  Table 1: Toys on a table." in listing and "5 of 6 rows are built" in listing
    assert "toy.t1.c  not built: no data" in listing and "toy.t2.d  built, 1 run recorded" in listing
    assert "1 of 1 rows are built" in describe_list([ledger], prefix="toy.t2.a")
    with pytest.raises(ValueError, match=r"no row's id starts with 'toys'; nearest: toy"):
        describe_list([ledger], prefix="toys")
    text = describe_row(row_of(ledger, "toy.t1.b"))
    assert "override   SOLVER.BASE_LR 0.5" in text and "mIoU                 72.0" in text
    assert "100 iterations of 8 images, SGD, rate 0.5, divided by 10 at 50, 80, weight decay 0.0001" in text
    assert "tools/reproduce.py run toy.t1.b" in text
    assert "not built: no data" in describe_row(row_of(ledger, "toy.t1.c"))
    (job,) = jobs_of(row_of(ledger, "toy.t1.b"), seeds=1, output=tmp_path / "out", options=("SOLVER.MAX_ITER", "9"))
    runs = describe_runs(row_of(ledger, "toy.t1.b"), [run_job(job, gpus=1)])
    assert runs.splitlines() == [
        "toy.t1.b, 1 run: a trial, not comparable",
        "  mIoU                 72.0 → 71.00 (-1.00)",
    ]


def test_numbers_of_records_that_lack_one(ledger, tmp_path):
    (job,) = jobs_of(row_of(ledger, "toy.t1.a"), seeds=1, output=tmp_path / "out")
    numbers = numbers_of(row_of(ledger, "toy.t1.a"), [run_job(job, gpus=1)])
    assert numbers["mIoU"].ours == (71.0,)
    assert numbers["mIoU_3px"].ours == ()  # not a number in the results
    assert numbers["params_M"].ours == (1.48,)


def test_scores_on_several_scales_are_in_the_record(ledger, tmp_path):
    row = row_of(ledger, "toy.t1.a")
    (job,) = jobs_of(row, seeds=1, output=tmp_path / "out", options=("TEST.AUG.ENABLED", "True"))
    results = run_job(job, gpus=1).results
    assert (find(results, "mIoU_ss"), find(results, "mIoU_ms")) == (71.0, 72.0)
    (plain,) = jobs_of(row, seeds=1, output=tmp_path / "out")
    assert find(run_job(plain, gpus=1).results, "mIoU_ms") is None


def test_the_tool(capsys):
    """Lists and errors from the command line."""
    tool = runpy.run_path(str(ROOT / "tools" / "reproduce.py"))
    tool["main"](["list", "fapn.t1"])
    assert "8 of 8 rows are built" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        tool["main"](["show", "fapn.t1.fapn_r5"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "no row 'fapn.t1.fapn_r5' in the ledgers; nearest: fapn.t1.fapn_r50" in error and "Traceback" not in error


@pytest.mark.slow
def test_a_real_row_in_small(tmp_path, real_images):
    """Faster R-CNN FaPN of Table 3 on 4 photographs, a few iterations, trained and scored from the command line."""
    write_coco(tmp_path, real_images)
    output = tmp_path / "out"
    command = [sys.executable, str(ROOT / "tools" / "reproduce.py"), "run", "fapn.t3.faster_rcnn_r50_fapn"]
    command += ["--shrink", "0.00005", "--num-gpus", "1", "--output", str(output)]
    command += ["--opts", "MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0"]
    command += ["SOLVER.BASE_LR", "0.0001"]  # without pretrained weights the recipe's rate diverges
    environment = os.environ | {"DETECTRON2_DATASETS": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "a trial, not comparable" in done.stdout
    (record,) = output.glob("*/seed1/record-*.json")
    content = json.loads(record.read_text())
    assert content["iterations"] == 4 and "bbox" in content["results"]


def test_a_number_from_weaker_weights_never_stands_without_the_word(ledger, tmp_path):
    row = replace(row_of(ledger, "toy.t1.a"), start="random weights")
    weak = replace(ledger, rows=(row,))
    (job,) = jobs_of(row, seeds=1, output=tmp_path / "out")
    record = run_job(job, gpus=1)
    text = "70.5 → 71.00 (+0.50), from random weights"
    assert text in describe_runs(row, [record])
    (block,) = report([weak], [record])
    assert block.lines[0][2] == text
    assert block.lines[0][4] == "1.5 → 1.48 (-0.02)"  # parameters do not depend on it
    expected = "trained from random weights, where the paper starts from pretrained weights: toy.t1.a"
    assert expected in block.notes and "from random weights" in to_markdown([block])
    assert "toy.t1.a  built, from random weights" in describe_list([weak])
    assert "trained from random weights; the paper starts from pretrained weights" in describe_row(row)
    # weights given by hand
    (pretrained,) = jobs_of(row, seeds=1, output=tmp_path / "out", options=["MODEL.WEIGHTS", "imagenet.pth"])
    assert "from random weights" not in describe_runs(row, [run_job(pretrained, gpus=1)])
    (scratch,) = jobs_of(row_of(ledger, "toy.t1.b"), seeds=1, output=tmp_path / "out", options=["MODEL.WEIGHTS", ""])
    assert "(-1.00), from random weights" in describe_runs(row_of(ledger, "toy.t1.b"), [run_job(scratch, gpus=1)])


def test_a_row_that_reads_proposals(ledger, tmp_path, monkeypatch):
    """The network that gives them is trained once, its proposals are written once, others make another run."""
    tool = "import pathlib, sys; value = lambda key: sys.argv[sys.argv.index(key) + 1]\n"
    tool += "folder = pathlib.Path(value('--output')); folder.mkdir(parents=True); (folder / 'header.json').touch()\n"
    tool += f"open({str(tmp_path / 'calls')!r}, 'a').write('extract ' + ' '.join(sys.argv[1:]) + chr(10))\n"
    (tmp_path / "extract.py").write_text(tool)
    monkeypatch.setattr(reproduce, "PROPOSALS_TOOL", tmp_path / "extract.py")
    data = {"DATASETS.TRAIN": ["a", "b"], "DATASETS.TEST": ["b"]}
    plain = row_of(ledger, "toy.t1.a")
    rpn = Network(tmp_path / "pre.yaml")
    row = replace(plain, networks={"": Network(tmp_path / "net.yaml", data)}, proposals=rpn)
    proposer, first, second = jobs_of(row, seeds=2, output=tmp_path / "out")
    records = [run_job(job, gpus=1) for job in (proposer, first, second)]
    trained, a, b, *rest = calls(tmp_path)
    assert "pre.yaml" in trained and len(rest) == 2
    for name, call in (("a", a), ("b", b)):
        assert f"--weights {proposer.weights} --dataset {name} --output {proposer.proposals_of(name)}" in call
    files = tuple(str(proposer.proposals_of(name)) for name in ("a", "b"))
    for call in rest:
        assert f"DATASETS.PROPOSAL_FILES_TRAIN {files} DATASETS.PROPOSAL_FILES_TEST {files[1:]}" in call
    assert [len(numbers_of(row, records_of(row, records))["mIoU"].ours)] == [2]
    (other, third) = jobs_of(replace(row, proposals=Network(rpn.config, {"SEED": 1, "MODEL.RPN.NMS_THRESH": 0.5})),
                             seeds=1, output=tmp_path / "out")  # fmt: skip
    assert other.folder != proposer.folder and third.folder != first.folder


def alternating_row(ledger, tmp_path):
    steps = Alternating(rpn=Network(tmp_path / "pre.yaml"), detector=Network(tmp_path / "net.yaml", {"SEED": 1}))
    return replace(row_of(ledger, "toy.t1.b"), alternating=steps)


def test_an_alternating_training(ledger, tmp_path, monkeypatch):
    """Four trainings, two sets of proposals, one detector; what is done is not done again."""
    tool = "import pathlib, sys; value = lambda key: sys.argv[sys.argv.index(key) + 1]\n"
    tool += "folder = pathlib.Path(value('--output')); folder.mkdir(parents=True); (folder / 'header.json').touch()\n"
    tool += f"open({str(tmp_path / 'calls')!r}, 'a').write('extract ' + ' '.join(sys.argv[1:]) + chr(10))\n"
    (tmp_path / "extract.py").write_text(tool)
    monkeypatch.setattr(reproduce, "PROPOSALS_TOOL", tmp_path / "extract.py")
    joined = []
    monkeypatch.setattr(reproduce, "join_checkpoints", lambda a, b, out: joined.append((a, b)) or out.touch())
    row, data = alternating_row(ledger, tmp_path), ["DATASETS.TRAIN", ["a"], "DATASETS.TEST", ["a"]]
    jobs = list(jobs_of(row, seeds=1, output=tmp_path / "out", options=data))
    one, two, three, four, whole = jobs
    records = [run_job(job, gpus=1) for job in jobs]
    first, extract_1, second, third, extract_3, fourth, scored = calls(tmp_path)
    assert "pre.yaml" in first and "FREEZE_PARTS" not in first + second and "MODEL.WEIGHTS" not in first + second
    assert f"--weights {one.weights} --dataset a" in extract_1 and str(one.proposals_of("a")) in second
    for call in (third, fourth):
        assert (
            f'MODEL.FREEZE_PARTS ["backbone"] DATASETS.TRAIN ["a"] DATASETS.TEST ["a"] MODEL.WEIGHTS {two.weights}'
            in call
        )
    assert "pre.yaml" in third and "net.yaml" in fourth
    assert f"--weights {three.weights} --dataset a" in extract_3 and str(three.proposals_of("a")) in fourth
    assert joined == [(three.weights, four.weights)]
    assert "--eval-only" in scored and f"MODEL.WEIGHTS {whole.weights}" in scored
    assert len({job.folder for job in jobs}) == 5 and [r.network for r in records] == [*STEPS, ""]
    assert [run_job(job, gpus=1) for job in jobs] == records and len(joined) == 1 and len(calls(tmp_path)) == 7
    assert "toy.t1.b, 1 run: a trial" in describe_runs(row, records)


def test_seeds_and_hashes_of_an_alternating_training(ledger, tmp_path):
    row = alternating_row(ledger, tmp_path)
    jobs = list(jobs_of(row, seeds=2, output=tmp_path / "out"))
    assert [job.seed for job in jobs] == [1] * 5 + [2] * 4
    for two, three, four, whole in (jobs[1:5], jobs[5:]):
        assert two.proposer == jobs[0] and three.start == four.start == two.weights
        assert four.proposer == three and whole.joined == (three, four)
    # what reads other proposals in step 2, or another backbone in step 4, is another training
    other = replace(row.alternating, rpn=Network(tmp_path / "pre.yaml", {"MODEL.RPN.NMS_THRESH": 0.5}))
    changed = list(jobs_of(replace(row, alternating=other), seeds=1, output=tmp_path / "out"))
    assert all(a.folder != b.folder for a, b in zip(jobs, changed))
    # a record of the detector counts for the row, a detector that was trained jointly does not
    record = Record(row.id, "", "net.yaml", [], 1, jobs[4].config_hash, 100, "a GPU", 1, "c0ffee")
    assert records_of(row, [record]) == [record]
    (joint,) = jobs_of(replace(row, alternating=None), seeds=1, output=tmp_path / "out")
    assert records_of(row, [replace(record, config_hash=joint.config_hash)]) == []
    text = describe_row(row)
    assert "step 3, RPN:" in text and "override   MODEL.FREEZE_PARTS ['backbone']" in text


def test_one_seed(ledger, tmp_path):
    """A job of a cluster runs one seed, after what all seeds share."""
    jobs = list(jobs_of(alternating_row(ledger, tmp_path), seeds=3, output=tmp_path / "out"))
    assert [(job.network_name, job.seed) for job in of_one_seed(jobs, 3)] == [
        *((STEPS[0], 1), (STEPS[1], 3), (STEPS[2], 3), (STEPS[3], 3), ("", 3))
    ]


def test_steps_1_and_2_of_fpn_are_the_networks_without_sharing(tmp_path):
    ledgers = load_ledgers()
    shared, apart = (
        list(jobs_of(find_row(ledgers, f"fpn.t5.fpn_r50_{name}"), seeds=1, output=tmp_path))
        for name in ("share", "noshare")
    )
    assert [job.folder for job in shared[:2]] == [job.folder for job in apart]


TOGETHER = """
paper: toy
title: Toys
tables:
- name: Table 4
  about: Two toys together.
  rows:
  - {id: toy.t4.a, method: A, networks: {instances: {config: net.yaml}, semantic: {config: pre.yaml}}, merged: true,
     paper: {mIoU: 71.0}}
"""


def test_two_networks_are_scored_together(ledger, tmp_path):
    (tmp_path / "together.yaml").write_text(TOGETHER)
    row = row_of(load_ledger(tmp_path / "together.yaml"), "toy.t4.a")
    jobs = list(jobs_of(row, seeds=2, output=tmp_path / "out"))
    assert [(job.network_name, job.seed) for job in jobs] == [
        *(("instances", 1), ("instances", 2), ("semantic", 1), ("semantic", 2), ("merged", 1), ("merged", 2))
    ]
    records = [run_job(job, gpus=1) for job in jobs]
    calls = (tmp_path / "calls").read_text().splitlines()
    weights = [str(job.weights) for job in jobs]
    assert calls[5].startswith(f"--instances {weights[1]} --semantic {weights[3]} --num-gpus 1 SEED 2 OUTPUT_DIR ")
    assert len({job.record for job in jobs}) == 6
    found = records_of(row, read_records(tmp_path / "out"))
    assert [(record.network, record.seed) for record in found] == [("merged", 1), ("merged", 2)]
    assert numbers_of(row, records[4:])["mIoU"].text == "71.0 → 71.50 ± 0.71 (+0.50)"
    assert describe_runs(row, records).splitlines()[0] == "toy.t4.a, 2 runs"
    assert "objects of the network instances, the semantic map of the network semantic" in describe_row(row)
