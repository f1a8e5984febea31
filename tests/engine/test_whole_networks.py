"""MaskFormer and PanopticFCN in training: a resumed run has the same bits, two processes learn as one does."""

import copy
import socket

import pytest
import torch
from detectron2.modeling import build_model
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from fapn_d2.config.loading import CONFIGS, load_config
from fapn_d2.data import generate_shapes
from fapn_d2.engine import Trainer
from tests.meta_arch.test_mask_former import config as toy_mask_former_cfg
from tests.meta_arch.test_mask_former import sample
from tests.toys.panoptic_fcn import panoptic_inputs, toy_network
from tests.toys.training import losses_of, same_weights

NETWORKS = {
    "MaskFormer": ("trials/panoptic_MaskFormer_FaPN_shapes.yaml", ["MODEL.MASK_FORMER.DROPOUT", 0.1]),
    "PanopticFCN": ("quickstart/panopticfcn_FPN_shapes_overfit.yaml", ["MODEL.NECK.PRESET", "fapn"]),
}
SMALL = [
    *("INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MAX_SIZE_TRAIN", 96, "INPUT.RANDOM_FLIP", "horizontal"),
    *("DATASETS.TEST", (), "SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2),
    *("SOLVER.WARMUP_ITERS", 1, "SEED", 3, "MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0),
]


@pytest.mark.parametrize("network", NETWORKS)
def test_resumed_run_has_the_same_bits(network, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    generate_shapes(tmp_path / "shapes", splits={"train": 4, "val": 1}, size=(64, 96), seed=0)
    name, options = NETWORKS[network]

    def trainer(folder, *, resume):
        cfg = load_config(str(CONFIGS / name), [*SMALL, *options, "OUTPUT_DIR", str(tmp_path / folder)])
        made = Trainer(cfg)
        made.resume_or_load(resume=resume)
        made.train()
        return made

    whole = trainer("whole", resume=False)
    (tmp_path / "part").mkdir()
    weights = "model_0000001.pth"
    (tmp_path / "part" / weights).write_bytes((tmp_path / "whole" / weights).read_bytes())
    (tmp_path / "part" / "last_checkpoint").write_text(weights)
    torch.rand(5)
    rest = trainer("part", resume=True)
    assert rest.start_iter == 2 and same_weights(whole.model, rest.model)
    expected = losses_of(whole)
    assert losses_of(rest) == {n: expected[n] for n in (2, 3)}


def mask_former():
    """The losses of masks alone: the cross entropy is a weighted mean of its process, as in the official code."""
    torch.manual_seed(0)
    model = build_model(toy_mask_former_cfg()).train()
    torch.manual_seed(1)
    images = [sample(64, 64, [0, 4, 2]), sample(64, 64, [1])]  # unlike numbers of regions
    return model, images, ("loss_mask", "loss_dice")


def panoptic_fcn():
    """Losses are divided by the objects of a process, as in the official code: alike numbers of objects."""
    model = toy_network().train()
    images = panoptic_inputs((2, 2))
    for key in ("instances", "sem_seg"):
        images[1][key] = copy.deepcopy(images[0][key])
    return model, images, ("loss_",)


def gradient(model, run, images, kinds):
    model.zero_grad()
    losses = run(images)
    # the others count for nothing, but stay in the graph
    sum(v if k.startswith(kinds) else 0 * v for k, v in losses.items()).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


def one_step(rank, port):
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    for build in (mask_former, panoptic_fcn):
        model, images, kinds = build()
        wrapped = DistributedDataParallel(model, broadcast_buffers=False)
        found = gradient(model, wrapped, images[rank : rank + 1], kinds)
        torch.save(found, f"{build.__name__}_{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_learn_as_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(one_step, (port,), nprocs=2)
    for build in (mask_former, panoptic_fcn):
        model, images, kinds = build()
        expected = gradient(model, model, images, kinds)
        for rank in range(2):
            found = torch.load(f"{build.__name__}_{rank}.pt")
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
