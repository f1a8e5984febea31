"""Tasks of srun as one run: SLURM's environment, read without SLURM. tests/cluster starts a real one."""

import pytest

from fapn_d2.engine import launching
from fapn_d2.engine.launching import device_of, launch, started_together
from fapn_d2.engine.slurm import first_host, slurm_step, tasks_per_node

STEP = {
    "SLURM_JOB_ID": "12",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_PROCID": "6",
    "SLURM_LOCALID": "2",
    "SLURM_NODEID": "1",
}


def test_step():
    step = slurm_step(STEP)
    assert (step.rank, step.size, step.local_rank, step.local_size) == (6, 8, 2, 4)
    assert step.url == "tcp://gpu07:20372"
    assert slurm_step(STEP | {"SLURM_JOB_ID": "13"}).port != step.port
    assert slurm_step(STEP | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}).url == "tcp://10.0.0.1:29500"
    assert slurm_step({}) is None and slurm_step(STEP | {"SLURM_STEP_NUM_TASKS": "1"}) is None
    batch = {key: value for key, value in STEP.items() if key != "SLURM_PROCID"}
    assert slurm_step(batch) is None


def test_layouts_that_detectron2_cannot_use():
    with pytest.raises(ValueError, match=r"srun started 4, 3 tasks on the nodes .* ask for --ntasks-per-node"):
        slurm_step(STEP | {"SLURM_STEP_TASKS_PER_NODE": "4,3"})
    with pytest.raises(ValueError, match=r"task 6 is number 3 on node 0.* --distribution=block"):
        slurm_step(STEP | {"SLURM_NODEID": "0", "SLURM_LOCALID": "3"})


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n1", "n1"),
        ("n[1-2]", "n1"),
        ("gpu[07-09,12],big1", "gpu07"),
        ("a,b", "a"),
        ("r[1,3]-ib", "r1-ib"),
        ("x1,y[2-3]", "x1"),
    ],
)
def test_first_host(nodes, first):
    assert first_host(nodes) == first


def test_short_forms():
    assert tasks_per_node("4(x2),3") == [4, 4, 3] and tasks_per_node("2") == [2]
    with pytest.raises(ValueError, match="which is not a list such as"):
        tasks_per_node("many")
    with pytest.raises(ValueError, match="set MASTER_ADDR"):
        first_host("")


def test_devices():
    assert [device_of(rank, 4) for rank in range(4)] == [0, 1, 2, 3]
    assert device_of(3, 1) == 0  # each task sees its own GPU
    with pytest.raises(ValueError, match="process 2 of this machine needs a GPU of its own, but 2 are visible"):
        device_of(2, 2)


@pytest.fixture
def joined(monkeypatch):
    """Launch as a task of srun; what would be joined."""
    calls = []
    for key, value in STEP.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    monkeypatch.setattr(launching, "_join", lambda *args: calls.append(args))
    monkeypatch.setattr(launching, "end_with_parent", lambda: None)
    monkeypatch.setattr(launching.comm, "synchronize", lambda: None)
    monkeypatch.setattr(launching.dist, "destroy_process_group", lambda: None)
    return calls


def test_tasks_join_one_run(joined):
    assert started_together()
    assert launch(lambda: 5, processes=1, use_cuda=False) == 5
    assert joined == [(6, 8, 2, 4, "tcp://gpu07:20372", False, launching.TIMEOUT)]


def test_a_rendezvous_of_ones_own(joined):
    assert not started_together(machines=2) and not started_together(dist_url="tcp://a:1")


def test_several_tasks_that_would_start_several_processes(joined):
    with pytest.raises(ValueError, match=r"srun started 4 tasks on this node, and each shall start 2 processes"):
        launch(lambda: 5, processes=2, use_cuda=False)
