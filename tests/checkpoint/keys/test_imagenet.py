"""ImageNet files of SFNet's bottom-up networks are found and renamed by the checkpointer."""

import pytest
import timm
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone

from fapn_d2.checkpoint.checkpointer import Checkpointer
from fapn_d2.checkpoint.keys.imagenet import imagenet_state_to_ours
from fapn_d2.config.loading import load_config


@pytest.mark.parametrize("prefix", ["", "module.", "body."])  # plain, from DataParallel, from "timm://..."
def test_a_file_of_timms_deep_stem_fills_the_bottom_up(tmp_path, prefix):
    block = timm.models.resnet.BasicBlock
    theirs = timm.models.resnet.ResNet(block, (2, 2, 2, 2), stem_width=64, stem_type="deep")
    weights = {f"{prefix}{k}": v for k, v in theirs.state_dict().items()}
    content = {"model": weights, "__author__": "timm", "matching_heuristics": True} if prefix == "body." else weights
    torch.save(content, tmp_path / "r18.pth")
    options = {
        "MODEL.BACKBONE.NAME": "build_resnet_sfnet_backbone",
        "MODEL.NECK.BOTTOM_UP": "build_deep_stem_resnet_backbone",
        "MODEL.RESNETS.DEPTH": 18,
        "MODEL.RESNETS.NORM": "BN",
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 128,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
        "MODEL.RESNETS.OUT_FEATURES": "['res2', 'res3', 'res4', 'res5']",
        "MODEL.FPN.IN_FEATURES": "['res2', 'res3', 'res4', 'res5']",
    }
    cfg = load_config("", [part for pair in options.items() for part in pair])
    pyramid = build_backbone(cfg, ShapeSpec(channels=3))
    Checkpointer(pyramid).initialize(str(tmp_path / "r18.pth"))
    expected = imagenet_state_to_ours(theirs.state_dict())
    got = pyramid.bottom_up.state_dict()
    assert all(torch.equal(got[name], value) for name, value in expected.items())
    assert not torch.equal(got["res5.1.conv2.weight"], got["res5.1.conv1.weight"])


def test_other_weights_are_refused():
    with pytest.raises(ValueError, match="not ImageNet weights of a deep-stem ResNet, DF1 or DF2"):
        imagenet_state_to_ours({"conv1.weight": torch.zeros(1)})
