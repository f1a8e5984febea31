"""Detectron2's ResNet with statistics that stay as loaded: same names, same numbers, and they do stay."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.resnet import build_resnet_backbone

from fapn_d2 import add_fapn_config
from fapn_d2.backbones.fixed_statistics import build_resnet_fixed_statistics_backbone


def resnet_cfg(norm="BN", freeze_at=2):
    cfg = get_cfg()
    add_fapn_config(cfg)
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 32
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res5"]
    cfg.MODEL.RESNETS.NORM = norm
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    return cfg


def test_statistics_stay_and_the_rest_trains():
    network = build_resnet_fixed_statistics_backbone(resnet_cfg(), ShapeSpec(channels=3))
    plain = build_resnet_backbone(resnet_cfg(), ShapeSpec(channels=3)).eval()
    plain.load_state_dict(network.state_dict(), strict=True)
    image = torch.randn(2, 3, 32, 32)
    for mode in (False, True):
        out = network.train(mode)(image)
    assert list(out) == ["res2", "res5"]
    for name, value in plain(image).items():
        torch.testing.assert_close(out[name], value, rtol=0, atol=0)
    out["res5"].square().sum().backward()
    for name, value in plain.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name
    assert network.res5[0].conv1.norm.weight.grad is not None
    assert not [n for n, p in network.named_parameters() if n.startswith(("stem", "res2")) and p.requires_grad]


@pytest.mark.parametrize("norm", ["FrozenBN", "GN", ""])
def test_other_norms_are_refused(norm):
    with pytest.raises(ValueError, match=rf"MODEL\.RESNETS\.NORM = '{norm}', but .* needs \"BN\""):
        build_resnet_fixed_statistics_backbone(resnet_cfg(norm, freeze_at=0), ShapeSpec(channels=3))
