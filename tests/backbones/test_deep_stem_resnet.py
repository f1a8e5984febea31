"""ResNets with a deep stem: official counts, timm's networks of the same shape, sizes, dilations, errors."""

import pytest
import timm
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY

from fapn_d2 import add_fapn_config
from fapn_d2.checkpoint.keys.imagenet import imagenet_state_to_ours, resnet_key_to_ours, resnet_key_to_public

# facts of the official code
COUNTS = {18: 11_324_992, 50: 23_631_808, 101: 42_623_936}


def build(depth, **resnets):
    cfg = get_cfg()
    add_fapn_config(cfg)
    options = {
        "DEPTH": depth,
        "NORM": "BN",
        "STEM_OUT_CHANNELS": 128,
        "RES2_OUT_CHANNELS": 64 if depth < 50 else 256,
        "STRIDE_IN_1X1": False,
        "OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    }
    for key, value in (options | resnets).items():
        cfg.MODEL.RESNETS[key] = value
    cfg.MODEL.BACKBONE.FREEZE_AT = resnets.get("FREEZE_AT", 0)
    return BACKBONE_REGISTRY.get("build_deep_stem_resnet_backbone")(cfg, ShapeSpec(channels=3))


@pytest.mark.parametrize("depth", COUNTS)
def test_parameters(depth):
    with torch.device("meta"):
        network = build(depth)
    assert sum(p.numel() for p in network.parameters()) == COUNTS[depth]
    assert sum(p.numel() for p in network.stem.parameters()) == 112_832
    channels = [64, 128, 256, 512] if depth == 18 else [256, 512, 1024, 2048]
    shapes = {name: (shape.channels, shape.stride) for name, shape in network.output_shape().items()}
    assert shapes == dict(zip(("res2", "res3", "res4", "res5"), zip(channels, (4, 8, 16, 32))))


@pytest.mark.parametrize(
    ("ceil_mode", "size", "sizes"),
    [
        (False, (1024, 360), ((256, 90), (128, 45), (64, 23), (32, 12))),
        (True, (1024, 480), ((257, 121), (129, 61), (65, 31), (33, 16))),
    ],
)
def test_sizes(ceil_mode, size, sizes):
    with torch.device("meta"):
        maps = build(18, STEM_CEIL_MODE=ceil_mode)(torch.zeros(1, 3, *size))
    assert tuple(tuple(m.shape[-2:]) for m in maps.values()) == sizes


@pytest.mark.parametrize("depth", [18, 50])
def test_equal_to_timm(depth):
    """timm's resnet50s has this shape and these names; its 18 is built likewise."""
    if depth == 50:
        theirs = timm.create_model("resnet50s", pretrained=False)
    else:
        theirs = timm.models.resnet.ResNet(timm.models.resnet.BasicBlock, (2, 2, 2, 2), stem_width=64, stem_type="deep")
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1)
            torch.nn.init.normal_(module.running_mean, std=0.1)
    ours = build(depth)
    weights = imagenet_state_to_ours(theirs.state_dict())
    missing = set(ours.state_dict()) - set(weights)
    assert all(name.endswith("num_batches_tracked") for name in missing)
    ours.load_state_dict(weights | {name: torch.tensor(0) for name in missing}, strict=True)
    image = torch.randn(1, 3, 67, 90)
    with torch.no_grad():
        expected = theirs.eval().forward_intermediates(image, intermediates_only=True)[1:]
        got = ours.eval()(image)
    for a, b in zip(got.values(), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * b.abs().max().item())


@pytest.mark.parametrize("depth", [18, 50])
def test_renaming_goes_both_ways(depth):
    with torch.device("meta"):
        ours = list(build(depth).state_dict())
    public = [resnet_key_to_public(key) for key in ours]
    assert [resnet_key_to_ours(key) for key in public] == ours
    assert resnet_key_to_ours("layer3.5.downsample.1.running_var") == "res4.5.shortcut.norm.running_var"
    assert resnet_key_to_ours("conv1.6.weight") == "stem.conv3.weight" == resnet_key_to_ours("layer0.0.6.weight")
    assert resnet_key_to_ours("fc.weight") == "fc.weight"


def dilations(network, stage):
    return [[conv.dilation[0] for conv in (block.conv1, block.conv2)] for block in getattr(network, stage)]


def test_dilation_beside_and_in_place_of_strides():
    image = torch.zeros(1, 3, 64, 64)
    with torch.device("meta"):
        variant_d = build(18, CONV2_DILATION=[1, 1, 2, 4])
        bottlenecks = build(50, CONV2_DILATION=[1, 1, 2, 4])
        dilated, half_dilated = build(18, OUTPUT_STRIDE=8), build(50, OUTPUT_STRIDE=16)
        image = image.to("meta")
        assert variant_d(image)["res5"].shape[-1] == bottlenecks(image)["res5"].shape[-1] == 2
        assert [m.shape[-1] for m in dilated(image).values()] == [16, 8, 8, 8]
        assert [m.shape[-1] for m in half_dilated(image).values()] == [16, 8, 4, 4]
    assert dilations(variant_d, "res4") == [[1, 2]] * 2 and dilations(variant_d, "res5") == [[1, 4]] * 2
    assert dilations(bottlenecks, "res5") == [[1, 4]] * 3 and dilations(bottlenecks, "res3") == [[1, 1]] * 4
    assert dilations(dilated, "res4") == [[2, 2]] * 2 and dilations(dilated, "res5") == [[4, 4]] * 2
    assert dilations(half_dilated, "res5") == [[1, 2]] * 3
    assert [shape.stride for shape in dilated.output_shape().values()] == [4, 8, 8, 8]


def test_freezing():
    network = build(18, FREEZE_AT=2)
    trainable = {name.split(".")[0] for name, p in network.named_parameters() if p.requires_grad}
    assert trainable == {"res3", "res4", "res5"}


ERRORS = [
    (dict(DEPTH=20), r"MODEL.RESNETS.DEPTH = 20; allowed: 18, 34, 50, 101, 152"),
    (dict(OUT_FEATURES=["res6"]), r"MODEL.RESNETS.OUT_FEATURES = \['res6'\]; allowed: stem, res2, res3, res4, res5"),
    (dict(OUTPUT_STRIDE=4), r"MODEL.RESNETS.OUTPUT_STRIDE = 4; allowed: 8, 16, 32"),
    (dict(CONV2_DILATION=[2, 4]), r"MODEL.RESNETS.CONV2_DILATION = \[2, 4\] needs an entry for each of"),
]


@pytest.mark.parametrize(("options", "message"), ERRORS)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        build(18, **options)
