"""Jobs and the script of a cluster, without one."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from fapn_d2.cluster import jobs
from fapn_d2.cluster.jobs import ClusterJob, Request, minutes, requeue_lines, script, submit

TOOL = Path(__file__).resolve().parents[2] / "tools" / "launch_slurm.py"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90),
        ("30:00", 30),
        ("0:30", 1),
        ("24:00:00", 1440),
        ("1:30:01", 91),
        ("2-00:00:00", 2880),
        ("1-12", 2160),
        ("1-0:05", 1445),
    ],
)
def test_time_limits(text, expected):
    assert minutes(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "1:2:3:4", "-5", "x-5", "1d"])
def test_what_is_no_time(text):
    with pytest.raises(ValueError, match="is not a time; allowed are minutes, MM:SS, HH:MM:SS"):
        minutes(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes": 0}, "--nodes must be at least 1, got 0"),
        ({"requeues": -1}, "--requeues must not be negative, got -1"),
        ({"minutes": 1}, r"--grace 120 s is not shorter than --time \(60 s\)"),
        ({"gpus_per_node": 8, "tasks_per_node": 4}, "--tasks-per-node 4 does not fit --gpus-per-node 8"),
    ],
)
def test_wrong_requests(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Request(name="a", logs=tmp_path, **change).parameters()


def test_script(tmp_path):
    pytest.importorskip("submitit")
    request = Request(
        name="fapn",
        logs=tmp_path,
        nodes=2,
        tasks_per_node=8,
        gpus_per_node=8,
        cpus_per_task=5,
        minutes=90,
        setup=("module load cuda",),
        srun=("--container-image=torch",),
        sbatch={"partition": "gpu", "exclusive": True},
    )
    lines = script(request).splitlines()
    for option in ("nodes=2", "ntasks-per-node=8", "gpus-per-node=8", "time=90", "signal=USR2@120", "requeue"):
        assert f"#SBATCH --{option}" in lines
    assert {"#SBATCH --open-mode=append", "#SBATCH --partition=gpu", "#SBATCH --exclusive", "module load cuda"} <= {
        *lines
    }
    (srun,) = (number for number, line in enumerate(lines) if line.startswith("srun "))
    assert lines.index("module load cuda") < srun < lines.index("code=$?")
    assert all(word in lines[srun] for word in ("--cpus-per-task=5", "--container-image=torch", sys.executable))
    assert "#SBATCH --array=0-2%3" in script(request, jobs=3)


def test_without_slurm(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="there is no SLURM on this machine"):
        submit(Request(name="a", logs=tmp_path), [ClusterJob("train_net", [], 1)])


@pytest.mark.parametrize(
    ("code", "restarts", "asked", "said"),
    [
        (75, None, "requeue 12\n", "SLURM starts it again, at most 3 times"),
        (75, 2, "requeue 12\n", "SLURM starts it again"),
        (75, 3, "", "--requeues 3 is used up: submit the same command to go on"),
        (140, 1, "requeue 12\n", "SLURM starts it again"),
        (2, None, "", ""),
        (0, None, "", ""),
    ],
)
def test_end_of_the_script(code, restarts, asked, said, tmp_path):
    """The lines after srun, run by bash with a scontrol that notes what it is asked."""
    noted = tmp_path / "noted"
    noted.write_text("")
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/bash\necho "$@" >> {noted}\n')
    scontrol.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "12"}
    environment |= {} if restarts is None else {"SLURM_RESTART_COUNT": str(restarts)}
    lines = "\n".join([f"(exit {code})", *requeue_lines(3)])
    done = subprocess.run(["bash", "-c", lines], env=environment, capture_output=True, text=True)
    assert done.returncode == code and said in done.stdout and noted.read_text() == asked


def test_a_job_calls_a_program_and_has_a_bound(tmp_path, monkeypatch, capsys):
    """Failed nodes make SLURM start a job again without asking."""
    (tmp_path / "ends.py").write_text("import sys\nsys.exit(int(sys.argv[1]))\n")
    monkeypatch.setattr(jobs, "TOOLS", tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(jobs.signal, "signal", lambda *args: None)
    for restarts, code in ((3, 5), (4, 1)):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
        with pytest.raises(SystemExit) as end:
            ClusterJob("ends", ["5"], 3)()
        assert end.value.code == code
    assert "started again 4 times, and --requeues allows 3" in capsys.readouterr().err


@pytest.fixture
def tool(capsys, monkeypatch):
    monkeypatch.delenv("FAPN_DEBUG", raising=False)
    main = runpy.run_path(str(TOOL))["main"]

    def call(*words) -> tuple[int, str]:
        code = 0
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            code = end.code
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return call


def test_dry_run(tool):
    pytest.importorskip("submitit")
    config = TOOL.parents[1] / "configs" / "fapn" / "mask_rcnn_R_50_FaPN_1x.yaml"
    words = ("--dry-run", "--gpus-per-node", 4, "--config-file", config)
    code, said = tool(*words, "OUTPUT_DIR", "output/a")
    assert code == 0, said
    assert "#SBATCH --ntasks-per-node=4" in said and "#SBATCH --job-name=mask_rcnn_R_50_FaPN_1x" in said
    assert f"# calls: tools/train_net.py --resume --config-file {config} OUTPUT_DIR output/a" in said
    code, said = tool(*words, "SOLVER.MAX_ITERS", 5)
    assert code == 2 and "SOLVER.MAX_ITER" in said
    code, said = tool(*words, "--num-gpus", 4)
    assert code == 2 and "use --gpus-per-node and --nodes" in said


def test_rows(tool):
    pytest.importorskip("submitit")
    code, said = tool("--dry-run", "--gpus-per-node", 8, "--row", "fapn.t3.faster_rcnn_r50_fapn", "--seeds", 3)
    assert code == 0 and "#SBATCH --array=0-2%3" in said and "#SBATCH --ntasks-per-node=1" in said
    assert "reproduce.py run fapn.t3.faster_rcnn_r50_fapn --num-gpus 8 --only-seed 2" in said
    assert tool("--dry-run", "--row", "fapn.t3.faster_rcnn_r50_fapn", "--nonsense", 1)[0] == 2
    code, said = tool("--dry-run", "--row", "fapn.t3.faster")
    assert code == 2 and "fapn.t3.faster_rcnn" in said
