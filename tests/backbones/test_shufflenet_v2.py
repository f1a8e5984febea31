"""ShuffleNetV2 against torchvision's network."""

import pytest
import torch
import torchvision
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY

from fapn_d2 import add_fapn_config
from fapn_d2.backbones.shufflenet_v2 import ShuffleNetV2

ALL = ["stem", "stage2", "stage3", "stage4", "conv5"]


def test_equal_to_torchvision_under_its_names():
    theirs = torchvision.models.shufflenet_v2_x0_5().eval()
    ours = ShuffleNetV2(0.5, out_features=ALL).eval()
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    ours.load_state_dict(state, strict=True)
    x = image = torch.randn(1, 3, 70, 45)
    with torch.no_grad():
        got = ours(image)
        for name in ("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5"):
            x = getattr(theirs, name)(x)
            if name != "conv1":
                assert torch.equal(got["stem" if name == "maxpool" else name], x)
    for name, shape in ours.output_shape().items():
        assert got[name].shape == (1, shape.channels, -(-70 // shape.stride), -(-45 // shape.stride))


def test_builder():
    cfg = get_cfg()
    add_fapn_config(cfg)
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    with torch.device("meta"):
        network = BACKBONE_REGISTRY.get("build_shufflenetv2_backbone")(cfg, ShapeSpec(channels=3))
    shapes = {name: (shape.channels, shape.stride) for name, shape in network.output_shape().items()}
    assert shapes == {"stage2": (176, 8), "stage3": (352, 16), "conv5": (1024, 32)}
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in network.modules())


def test_only_what_is_needed_and_frozen_as_asked():
    network = ShuffleNetV2(0.5, out_features=["stage3"], norm="BN", freeze_at=2, ceil_mode=True)
    assert [name for name, _ in network.named_children()] == ["conv1", "stage2", "stage3", "maxpool"]
    assert {name.split(".")[0] for name, p in network.named_parameters() if p.requires_grad} == {"stage3"}
    assert any(isinstance(module, FrozenBatchNorm2d) for module in network.stage2.modules())
    assert network(torch.zeros(2, 3, 64, 64))["stage3"].shape[-2:] == (5, 5)  # 32, rounded up to 17, 9, 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(width=3.0), "WIDTH = 3.0; allowed: 0.5, 1.0, 1.5, 2.0"),
        (dict(norm="GN"), "NORM = 'GN'; allowed: BN, SyncBN, FrozenBN"),
        (dict(out_features=["res2"]), "OUT_FEATURES = .*; allowed: stem, stage2, stage3, stage4, conv5"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        ShuffleNetV2(**({"out_features": ["conv5"]} | options))
