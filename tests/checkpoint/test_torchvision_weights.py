"""torchvision's networks and ours give the same maps after loading; no network needed."""

import logging
from pathlib import Path

import pytest
import torch
import torchvision
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model, build_resnet_backbone

from fapn_d2.checkpoint import torchvision_weights as tv
from fapn_d2.checkpoint.checkpointer import Checkpointer
from fapn_d2.config.loading import load_config

ROOT = Path(__file__).resolve().parents[2]
RGB = ["INPUT.FORMAT", "RGB", "MODEL.PIXEL_MEAN", "[123.675, 116.28, 103.53]"]
RGB += ["MODEL.PIXEL_STD", "[58.395, 57.12, 57.375]"]


def resnet_config(depth: int, *opts: str):
    small = ["MODEL.RESNETS.RES2_OUT_CHANNELS", "64"] if depth < 50 else []
    return load_config(
        "",
        ["MODEL.RESNETS.DEPTH", str(depth), "MODEL.RESNETS.STRIDE_IN_1X1", "False", *small]
        + ["MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3', 'res4', 'res5']", *RGB, *opts],
    )


@torch.no_grad()
def torchvision_resnet(depth: int) -> torch.nn.Module:
    model = getattr(torchvision.models, f"resnet{depth}")(weights=None).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # far from 0 and 1, so that a mistake in a name would show
            for value, low, high in ((module.weight, 0.5, 1.5), (module.running_var, 0.5, 1.5)):
                value.uniform_(low, high)
            for value in (module.bias, module.running_mean):
                value.uniform_(-0.2, 0.2)
    return model


@torch.no_grad()
def maps_of(model: torch.nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    x = model.maxpool(model.relu(model.bn1(model.conv1(images))))
    maps = []
    for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
        x = layer(x)
        maps.append(x)
    return maps


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("wrapped", [False, True])
def test_same_maps_as_torchvision(depth, wrapped, tmp_path):
    theirs = torchvision_resnet(depth)
    state = theirs.state_dict()
    if wrapped:  # as PyTorch's ImageNet example saves it
        state = {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 90}
    torch.save(state, tmp_path / "resnet.pth")
    ours = build_resnet_backbone(resnet_config(depth), ShapeSpec(channels=3)).eval()
    Checkpointer(ours).load(str(tmp_path / "resnet.pth"))  # strict: every weight and statistic is filled
    images = torch.randn(1, 3, 65, 96)
    with torch.no_grad():
        maps = ours(images)
    for name, expected in zip(("res2", "res3", "res4", "res5"), maps_of(theirs, images)):
        assert expected.std() > 1e-3
        torch.testing.assert_close(maps[name], expected, rtol=1e-5, atol=1e-5)


def test_bottom_up_of_a_detector_is_filled(tmp_path, caplog):
    cfg = resnet_config(18, "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.DEVICE", "cpu")
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 32
    model = build_model(cfg)
    theirs = torchvision_resnet(18)
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    with caplog.at_level(logging.INFO):
        Checkpointer(model, cfg=cfg).initialize(str(tmp_path / "resnet18.pth"))
    loaded = model.backbone.bottom_up.state_dict()
    assert torch.equal(loaded["stem.conv1.weight"], theirs.conv1.weight)
    assert torch.equal(loaded["res3.0.shortcut.norm.running_var"], theirs.layer2[0].downsample[1].running_var)
    assert torch.equal(loaded["res5.1.conv2.norm.bias"], theirs.layer4[1].bn2.bias)
    assert "these parts keep their initialisation: backbone.fpn_lateral2" in caplog.text
    assert "another input" not in caplog.text


def test_another_depth_is_refused(tmp_path):
    torch.save(torchvision_resnet(18).state_dict(), tmp_path / "resnet18.pth")
    ours = build_resnet_backbone(resnet_config(34), ShapeSpec(channels=3))
    with pytest.raises(ValueError, match=r"leaves \d+ weights of the bottom-up network random: res2.2.conv1"):
        Checkpointer(ours).initialize(str(tmp_path / "resnet18.pth"))
    ours = build_resnet_backbone(resnet_config(50), ShapeSpec(channels=3))
    with pytest.raises(
        ValueError, match=r"res2.0.conv1.weight is \(64, 64, 3, 3\) in the file and \(64, 64, 1, 1\) in the network"
    ):
        Checkpointer(ours).initialize(str(tmp_path / "resnet18.pth"))


def test_download_uses_the_cache_and_names_what_to_do_without(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    theirs = torchvision_resnet(18)
    torch.save(theirs.state_dict(), cache / "resnet18-f37072fd.pth")
    ours = build_resnet_backbone(resnet_config(18), ShapeSpec(channels=3))
    Checkpointer(ours).initialize("torchvision://resnet18")
    assert torch.equal(ours.state_dict()["res4.1.conv1.weight"], theirs.layer3[1].conv1.weight)

    def offline(*args, **kwargs):
        raise tv.urllib.error.URLError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(
        ValueError, match=r"cannot download https://.*resnet34-b627a593.pth.*put the file into .*hub/ch"
    ):
        Checkpointer(ours).initialize("torchvision://resnet34")
    with pytest.raises(ValueError, match=r"torchvision://resnet19; known are torchvision://resnet18, .*resnet101"):
        Checkpointer(ours).initialize("torchvision://resnet19")


def test_input_that_does_not_fit_is_named(tmp_path, caplog):
    torch.save(torchvision_resnet(18).state_dict(), tmp_path / "resnet.pth")
    cfg = resnet_config(18)
    assert tv.input_mismatches(cfg) == []
    cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_STD = "BGR", [1.0, 1.0, 1.0]
    ours = build_resnet_backbone(cfg, ShapeSpec(channels=3))
    Checkpointer(ours, cfg=cfg).initialize(str(tmp_path / "resnet.pth"))
    assert 'it needs: INPUT.FORMAT "RGB" MODEL.PIXEL_STD "[58.395, 57.12, 57.375]"' in caplog.text
    cfg = resnet_config(50)
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = True
    assert tv.input_mismatches(cfg) == ["MODEL.RESNETS.STRIDE_IN_1X1 False"]


def test_network_without_a_resnet(tmp_path):
    torch.save(torchvision_resnet(18).state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match="network has no ResNet of Detectron2"):
        Checkpointer(torch.nn.Linear(1, 1)).load(str(tmp_path / "resnet.pth"))


def test_shufflenet_of_the_shipped_config(tmp_path, monkeypatch, caplog):
    """Every parameter and statistic of the bottom-up network comes from the file; the classifier is left out."""
    cfg = load_config(str(ROOT / "configs/sfnet/semantic_ShuffleNetV2_SFNet_cityscapes.yaml"), ["MODEL.DEVICE", "cpu"])
    theirs = torchvision.models.shufflenet_v2_x1_5(weights=None)
    with torch.no_grad():
        for value in theirs.state_dict().values():
            value.copy_(torch.rand(value.shape) + 0.5)
    address = torchvision.models.ShuffleNet_V2_X1_5_Weights.IMAGENET1K_V1.url
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(theirs.state_dict(), cache / address.rsplit("/", 1)[1])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    model = build_model(cfg)
    with caplog.at_level(logging.INFO):
        Checkpointer(model, cfg=cfg).initialize(cfg.MODEL.WEIGHTS)
    loaded = model.backbone.bottom_up.state_dict()
    expected = {name: value for name, value in theirs.state_dict().items() if not name.startswith("fc.")}
    compared = [name for name in expected if not name.endswith("num_batches_tracked")]
    assert len(compared) > 250 and all(torch.equal(loaded[name], expected[name]) for name in compared)
    assert {name for name in loaded if not name.endswith("num_batches_tracked")} == set(compared)
    assert "another input" not in caplog.text
    cfg.INPUT.FORMAT = "BGR"
    Checkpointer(model, cfg=cfg).initialize(cfg.MODEL.WEIGHTS)
    assert 'it needs: INPUT.FORMAT "RGB"\n' in caplog.text
    cfg.MODEL.SHUFFLENETV2.WIDTH = 1.0
    with pytest.raises(ValueError, match=r"weights of torchvision://shufflenet_v2_x1_5 do not fit the network"):
        Checkpointer(build_model(cfg)).initialize(cfg.MODEL.WEIGHTS)
