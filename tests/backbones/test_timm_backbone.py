"""timm's networks as bottom-up networks: strides, freezing, norms, pretrained weights, errors."""

import pytest
import timm
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone

from fapn_d2.backbones.timm_backbone import TimmBackbone
from fapn_d2.checkpoint import timm_weights
from fapn_d2.checkpoint.checkpointer import Checkpointer

from ..toys.pyramids import toy_cfg

SMALL = "test_efficientnet"  # timm has tiny networks for tests


def timm_cfg(name=SMALL, builder="build_timm_pyramid_backbone", **neck):
    cfg = toy_cfg(builder, out_channels=16, **{"BOTTOM_UP": "build_timm_backbone", **neck})
    cfg.MODEL.TIMM.NAME = name
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    return cfg


def test_mobilenet_v2_of_the_paper():
    """facts: 24, 32, 96 and 320 channels, 1,811,712 parameters; necks of FPN and AugFPN on them."""
    with torch.device("meta"):
        network = TimmBackbone("mobilenetv2_100")
        assert sum(p.numel() for p in network.parameters()) == 1_811_712
        shapes = {name: (s.channels, s.stride) for name, s in network.output_shape().items()}
        assert shapes == {"res2": (24, 4), "res3": (32, 8), "res4": (96, 16), "res5": (320, 32)}
        for preset, count in (("fpn", 2_482_176), ("augfpn", 2_932_483)):
            cfg = timm_cfg("mobilenetv2_100", PRESET=preset)
            cfg.MODEL.FPN.OUT_CHANNELS = 256
            pyramid = build_backbone(cfg)
            assert sum(p.numel() for p in pyramid.parameters()) == 1_811_712 + count


@pytest.mark.parametrize("preset", ["fpn", "fapn", "augfpn"])
def test_pyramids_train(preset):
    pyramid = build_backbone(timm_cfg(PRESET=preset))
    out = pyramid(torch.randn(2, 3, 64, 96))
    assert [tuple(v.shape[-2:]) for k, v in out.items() if k[0] == "p"] == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    sum(v.square().sum() for v in out.values()).backward()
    assert all(p.grad is not None for p in pyramid.parameters())


@pytest.mark.parametrize(
    "name",
    ["convnext_atto", "swin_tiny_patch4_window7_224", "regnety_002", "densenet121", "resnet18"],
)
def test_other_families(name):
    with torch.device("meta"):
        network = TimmBackbone(name)
        maps = network(torch.empty(1, 3, 128, 160))
    for feature, shape in network.output_shape().items():
        assert maps[feature].shape == (1, shape.channels, 128 // shape.stride, 160 // shape.stride)


def test_grey_images():
    network = build_backbone(timm_cfg(builder="build_timm_backbone"), ShapeSpec(channels=1))
    assert network(torch.randn(1, 1, 32, 64))["res5"].shape[-2:] == (1, 2)


@pytest.mark.parametrize("name", ["mobilenetv2_100", "resnet18", "convnext_atto"])
@pytest.mark.parametrize("freeze_at", range(6))
def test_freezing_stops_where_detectron2s_does(name, freeze_at):
    with torch.device("meta"):
        network = TimmBackbone(name, freeze_at=freeze_at)
    trained = [n for n, p in network.named_parameters() if p.requires_grad]
    first = {
        "mobilenetv2_100": ["conv_stem", "blocks.1.", "blocks.2.", "blocks.3.", "blocks.5.", None],
        "resnet18": ["conv1", "layer1", "layer2", "layer3", "layer4", None],
        "convnext_atto": ["stem_0", "stages_0", "stages_1", "stages_2", "stages_3", None],
    }[name][freeze_at]
    assert (trained[0].startswith(f"body.{first}")) if first else not trained
    names = [n for n, _ in network.named_parameters()]
    assert trained == names[len(names) - len(trained) :]


@pytest.mark.parametrize(
    ("norm", "statistics", "scale"), [("BN", True, True), ("EvalBN", False, True), ("FrozenBN", False, False)]
)
def test_norms(norm, statistics, scale):
    network = TimmBackbone(SMALL, norm=norm, freeze_at=2)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    for mode in (False, True):
        network.train(mode)
    sum(v.square().mean() for v in network(torch.randn(2, 3, 64, 64)).values()).backward()
    after = network.state_dict()
    assert torch.equal(before["body.bn1.running_mean"], after["body.bn1.running_mean"])  # frozen in every case
    last = network.body.blocks[4][-1].bn3
    assert torch.equal(before["body.blocks.4.0.bn3.running_mean"], last.running_mean) != statistics
    assert (last.weight.grad is not None) == scale
    assert network.body.bn1.weight.grad is None


def test_synchronised_norms():
    network = TimmBackbone(SMALL, norm="SyncBN", freeze_at=2).train()
    last = network.body.blocks[4][-1].bn3
    assert isinstance(last, torch.nn.SyncBatchNorm) and last.training
    assert not network.body.bn1.training
    assert network(torch.randn(2, 3, 64, 64))["res2"].isfinite().all()


@pytest.fixture
def pretrained(monkeypatch, tmp_path):
    """A timm without network: its pretrained weights are random ones."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    create, calls = timm.create_model, []

    def offline(name, pretrained=False, **options):
        calls.append(pretrained)
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    return calls


@pytest.mark.parametrize("checkpointer", [DetectionCheckpointer, Checkpointer])
@pytest.mark.parametrize("name", [SMALL, "test_resnet", "test_convnext"])
def test_pretrained_weights_by_name(pretrained, checkpointer, name):
    model = torch.nn.ModuleDict({"backbone": build_backbone(timm_cfg(name))})
    if checkpointer is Checkpointer:
        Checkpointer(model).initialize(f"timm://{name}")
    else:
        DetectionCheckpointer(model).load(f"timm://{name}")
    stored = torch.load(timm_weights.TimmHandler()._get_local_path(f"timm://{name}"))["model"]
    assert pretrained.count(True) == 1  # the second time it came from the cache
    got = model["backbone"].bottom_up.state_dict()
    assert set(got) <= set(stored)
    for key, value in got.items():
        assert torch.equal(value, stored[key]), key


def test_weights_that_cannot_be_had(monkeypatch, tmp_path):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    create = timm.create_model

    def unreachable(name, pretrained=False, **options):
        if pretrained:
            raise ConnectionError("no route")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(ValueError, match=r"timm://test_efficientnet \(ConnectionError: no route\); give a file"):
        timm_weights.TimmHandler()._get_local_path("timm://test_efficientnet")
    assert not list(tmp_path.rglob("*.pth"))


ERRORS = [
    (dict(name="mobilnetv2_100"), "has no model 'mobilnetv2_100'; nearest: mobilenetv2_1"),
    (
        dict(name="vit_tiny_patch16_224"),
        r"vit_tiny_patch16_224 has maps of strides \[16, 16, 16\], but a pyramid needs 4",
    ),
    (dict(name=SMALL, norm="GN"), r"MODEL\.TIMM\.NORM: unknown value 'GN'; allowed: BN, SyncBN, EvalBN, FrozenBN"),
    (dict(name="convnext_atto", norm="EvalBN"), "convnext_atto has no batch normalisation; leave it at 'BN'"),
    (dict(name="hrnet_w18", freeze_at=2), "hrnet_w18 does not have one module per map"),
]


@pytest.mark.parametrize(("options", "message"), ERRORS)
def test_errors(options, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        TimmBackbone(options.pop("name"), **options)


def test_another_bottom_up_is_refused():
    with pytest.raises(ValueError, match=r"BOTTOM_UP = 'build_given_maps', but .* is for networks of timm"):
        build_backbone(timm_cfg(BOTTOM_UP="build_given_maps"))
