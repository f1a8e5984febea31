"""MODEL.FREEZE_PARTS: what is frozen does not move by a bit in training, in one process and in two."""

import os

import pytest
import torch
from detectron2.utils import comm
from torch import nn

from fapn_d2.engine.launching import launch
from fapn_d2.engine.trainer import Trainer
from fapn_d2.meta_arch.build import build_model
from fapn_d2.meta_arch.freezing import freeze_parts
from tests.toys.training import toy_config, write_camvid

MOMENTUM_AND_DECAY = ("SOLVER.MOMENTUM", "0.9", "SOLVER.WEIGHT_DECAY", "0.1", "SOLVER.WEIGHT_DECAY_NORM", "0.1")
FROZEN = ("MODEL.FPN.NORM", "BN", "MODEL.FREEZE_PARTS", "['hidden', 'norm', 'scores.bias']")


def network() -> nn.Module:
    branch = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    return nn.ModuleDict({"body": branch, "body2": nn.Conv2d(2, 3, 1), "head": nn.BatchNorm2d(3)})


def test_names_are_of_whole_parts():
    model = freeze_parts(network(), ["body", "head.bias"])
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {"body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias", "head.bias"}
    assert all(parameter.requires_grad for parameter in freeze_parts(network(), []).parameters())


def test_frozen_norms_use_their_statistics_and_keep_them():
    model = freeze_parts(network(), ["body"]).train()
    x = torch.randn(4, 2, 5, 5)
    out = model["head"](model["body"](x))
    norm = model["body"][1]
    torch.testing.assert_close(norm(x.new_full((1, 3, 1, 1), 2.0)), torch.full((1, 3, 1, 1), 2 / (1 + 1e-5) ** 0.5))
    assert norm.running_mean.eq(0).all() and norm.running_var.eq(1).all() and norm.num_batches_tracked == 0
    assert model["head"].num_batches_tracked == 1 and out.requires_grad


def test_names_that_the_network_lacks():
    with pytest.raises(ValueError, match=r"MODEL\.FREEZE_PARTS names 'bodi', which the network lacks; nearest: body"):
        freeze_parts(network(), ["bodi"])
    with pytest.raises(ValueError, match="'rpn', which the network lacks; its parts are body, body2, head"):
        freeze_parts(network(), ["rpn"])
    with pytest.raises(ValueError, match="leaves nothing to train"):
        freeze_parts(network(), ["body", "body2", "head"])


def train(data: str, folder: str) -> None:
    os.environ["DETECTRON2_DATASETS"] = data
    cfg = toy_config(folder, "TEST.EVAL_PERIOD", "0", "DATASETS.TEST", "()", *MOMENTUM_AND_DECAY, *FROZEN)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    if comm.is_main_process():
        torch.save(build_state(trainer.model), f"{folder}/before.pth")
    trainer.train()
    if comm.get_rank() == comm.get_world_size() - 1:
        torch.save(build_state(trainer.model), f"{folder}/after.pth")


def build_state(model: nn.Module) -> dict:
    return {name.removeprefix("module."): value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("processes", [1, 2])
def test_training_moves_the_rest_alone(tmp_path, monkeypatch, processes):
    """Before on rank 0 and after on the last rank: the processes agree, too."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_camvid(tmp_path)
    if processes == 1:
        train(str(tmp_path), str(tmp_path))
    else:
        launch(train, processes=2, use_cuda=False, args=(str(tmp_path), str(tmp_path)))
    before, after = (torch.load(tmp_path / f"{name}.pth") for name in ("before", "after"))
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == {"scores.weight"}


def test_the_key_reaches_the_network(tmp_path):
    model = build_model(toy_config(tmp_path, *FROZEN))
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == ["scores.weight"]
