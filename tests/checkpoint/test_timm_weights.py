"""Plain state dicts of timm's networks as MODEL.WEIGHTS, whatever stands before their names."""

import logging

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from fapn_d2.backbones.timm_backbone import TimmBackbone
from fapn_d2.checkpoint.checkpointer import Checkpointer


class Detector(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.backbone = nn.ModuleDict({"bottom_up": TimmBackbone(name), "lateral": nn.Conv2d(8, 8, 1)})


def published(name, prefix=""):
    """A plain network of timm, classifier included, with random weights."""
    torch.manual_seed(5)
    weights = timm.create_model(name, pretrained=False).state_dict()
    return {prefix + key: torch.rand_like(v) if v.is_floating_point() else v for key, v in weights.items()}


def filled(model, weights, prefix=""):
    """Weights of the bottom-up network that are equal to those of a plain state dict, compared by order and value."""
    body = model.backbone["bottom_up"].body.state_dict()
    plain = {key[len(prefix) :].replace(".", "_"): value for key, value in weights.items()}
    return all(torch.equal(value, plain[key.replace(".", "_")]) for key, value in body.items())


@pytest.mark.parametrize("prefix", ["", "encoder.", "module.backbone.net."])
def test_every_weight_finds_its_place(tmp_path, caplog, prefix):
    model, weights = Detector("test_efficientnet"), published("test_efficientnet", prefix)
    torch.save(weights, tmp_path / "plain.pth")
    with caplog.at_level(logging.INFO):
        Checkpointer(model).initialize(str(tmp_path / "plain.pth"))
    assert filled(model, weights, prefix)
    left = prefix.removeprefix("module.")  # DataParallel's, which is taken off first
    assert f"a feature network lacks are left out: {left}conv_head, {left}bn2, {left}classifier\n" in caplog.text
    assert "these parts keep their initialisation: backbone.lateral" in caplog.text


# their feature networks join the names of containers: "stages_0" for "stages.0"
@pytest.mark.parametrize("name", ["convnext_atto", "regnety_002", "densenet121", "resnet18", "mobilenetv2_100"])
def test_other_families(tmp_path, name):
    model, weights = Detector(name), published(name)
    torch.save({"state_dict": weights}, tmp_path / "plain.pth")
    Checkpointer(model).initialize(str(tmp_path / "plain.pth"))
    assert filled(model, weights)


def test_safetensors(tmp_path):
    model, weights = Detector("test_efficientnet"), published("test_efficientnet")
    save_file(weights, tmp_path / "plain.safetensors")
    Checkpointer(model).initialize(str(tmp_path / "plain.safetensors"))
    assert filled(model, weights)


def test_own_checkpoints_are_left_alone(tmp_path):
    model, other = Detector("test_efficientnet"), Detector("test_efficientnet")
    torch.save({"model": other.state_dict()}, tmp_path / "own.pth")
    Checkpointer(model).load(str(tmp_path / "own.pth"))
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())


def test_another_network_is_refused_with_true_shapes(tmp_path):
    weights = published("test_efficientnet")
    weights["conv_stem.weight"] = torch.zeros(7, 3, 3, 3)
    torch.save(weights, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"conv_stem\.weight is \(7, 3, 3, 3\) in the file and \(\d+, 3, 3, 3\) in"):
        Checkpointer(Detector("test_efficientnet")).initialize(str(tmp_path / "other.pth"))
    torch.save(published("resnet18"), tmp_path / "resnet.pth")
    with pytest.raises(ValueError) as error:
        Checkpointer(Detector("test_efficientnet")).initialize(str(tmp_path / "resnet.pth"))
    assert " is (32, 3, 3, 3) in the file and (32, 3, 3, 3)" not in str(error.value)
