"""Official SFNet state dicts, written down by their published names and shapes, fill our networks and come back."""

import runpy
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from fapn_d2.checkpoint.keys.sfnet import sfnet_state_to_official, sfnet_state_to_ours
from fapn_d2.config.loading import load_config

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "sfnet"
BN = ("weight", "bias", "running_mean", "running_var")
RESNETS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
DF = {
    "df1": (("stage2", 3, 64), ("stage3", 3, 128), ("stage4", 3, 256), ("stage5", 1, 512)),
    "df2": (
        ("stage2_1", 2, 64),
        ("stage2_2", 1, 128),
        ("stage3_1", 10, 128),
        ("stage3_2", 1, 256),
        ("stage4_1", 4, 256),
        ("stage4_2", 2, 512),
    ),
}
STRIDED = {"stage2", "stage3", "stage4", "stage2_1", "stage3_1", "stage4_1"}


def norm(name, channels):
    return {f"{name}.{kind}": (channels,) for kind in BN} | {f"{name}.num_batches_tracked": ()}


def block(name, inputs, outputs, *, width=None, projected=False):
    """A basic block, or with ``width`` a bottleneck."""
    if width is None:
        shapes = {1: (outputs, inputs, 3, 3), 2: (outputs, outputs, 3, 3)}
    else:
        shapes = {1: (width, inputs, 1, 1), 2: (width, width, 3, 3), 3: (outputs, width, 1, 1)}
    state = {}
    for k, shape in shapes.items():
        state |= {f"{name}.conv{k}.weight": shape} | norm(f"{name}.bn{k}", shape[0])
    if projected:
        state |= {f"{name}.downsample.0.weight": (outputs, inputs, 1, 1)} | norm(f"{name}.downsample.1", outputs)
    return state


def resnet(depth):
    state = {
        "layer0.0.0.weight": (64, 3, 3, 3),
        "layer0.0.3.weight": (64, 64, 3, 3),
        "layer0.0.6.weight": (128, 64, 3, 3),
    }
    state |= norm("layer0.0.1", 64) | norm("layer0.0.4", 64) | norm("layer0.1", 128)
    inputs = 128
    for i, blocks in enumerate(RESNETS[depth]):
        width = 64 * 2**i
        outputs = width if depth == 18 else 4 * width
        for b in range(blocks):
            kind = {} if depth == 18 else {"width": width}
            state |= block(f"layer{i + 1}.{b}", inputs, outputs, projected=b == 0 and inputs != outputs, **kind)
            inputs = outputs
    return state


def df(name):
    state = {"backbone.stage1.0.weight": (32, 3, 3, 3), "backbone.stage1.3.weight": (64, 32, 3, 3)}
    state |= norm("backbone.stage1.1", 32) | norm("backbone.stage1.4", 64)
    inputs = 64
    for stage, blocks, outputs in DF[name]:
        for b in range(blocks):
            projected = b == 0 and (inputs != outputs or stage in STRIDED)
            state |= block(f"backbone.{stage}.{b}", inputs, outputs, projected=projected)
            inputs = outputs
    return state


def decoder(channels, d, classes=19):
    *finer, top = channels
    state = {}
    for k in range(4):
        state |= {f"head.ppm.stages.{k}.1.weight": (d, top, 1, 1)} | norm(f"head.ppm.stages.{k}.2", d)
    state |= {"head.ppm.bottleneck.0.weight": (d, top + 4 * d, 1, 1)} | norm("head.ppm.bottleneck.1", d)
    for i, c in enumerate(finer):
        state |= {f"head.fpn_in.{i}.0.weight": (d, c, 1, 1), f"head.fpn_in.{i}.0.bias": (d,)}
        state |= norm(f"head.fpn_in.{i}.1", d)
        state |= {f"head.fpn_out.{i}.0.0.weight": (d, d, 3, 3)} | norm(f"head.fpn_out.{i}.0.1", d)
        align = f"head.fpn_out_align.{i}"
        state |= {f"{align}.{down}.weight": (d // 2, d, 1, 1) for down in ("down_h", "down_l")}
        state |= {f"{align}.flow_make.weight": (2, d, 3, 3)}
        state |= {f"head.dsn.{i}.0.weight": (d, d, 3, 3), f"head.dsn.{i}.0.bias": (d,)} | norm(f"head.dsn.{i}.1", d)
        state |= {f"head.dsn.{i}.4.weight": (classes, d, 1, 1), f"head.dsn.{i}.4.bias": (classes,)}
    state |= {"head.conv_last.0.0.weight": (d, len(channels) * d, 3, 3)} | norm("head.conv_last.0.1", d)
    return state | {"head.conv_last.1.weight": (classes, d, 1, 1), "head.conv_last.1.bias": (classes,)}


OFFICIAL = {
    "R18": (lambda: resnet(18) | decoder((64, 128, 256, 512), 128), 13_320_588),
    "R50": (lambda: resnet(50) | decoder((256, 512, 1024, 2048), 256), 33_111_564),
    "R101": (lambda: resnet(101) | decoder((256, 512, 1024, 2048), 256), 52_103_692),
    "DF1": (lambda: df("df1") | decoder((128, 256, 512), 64), 8_498_969),
    "DF2": (lambda: df("df2") | decoder((128, 256, 512), 64), 17_953_049),
}


def network(name):
    """Ours, as the official code builds it."""
    name = name.replace("R", "R_") if name.startswith("R") else name
    cfg = load_config(str(CONFIGS / f"semantic_{name}_SFNet_sfsegnets.yaml"), ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        return build_model(cfg)


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_state_fills_ours_and_comes_back(name):
    make, parameters = OFFICIAL[name]
    official = {key: torch.empty(shape, device="meta") for key, shape in make().items()}
    model = network(name)
    state = sfnet_state_to_ours(official)
    model.load_state_dict(state, strict=True, assign=True)
    assert sum(p.numel() for p in model.parameters()) == parameters
    back = sfnet_state_to_official(state)
    assert back.keys() == official.keys() == sfnet_state_to_official(model.state_dict()).keys()
    assert all(back[key] is value for key, value in official.items())  # also among tensors of one shape
    if name == "R18":
        assert len(official) == 251


def test_names_that_are_not_the_networks():
    state = {key: torch.empty(0) for key in OFFICIAL["DF1"][0]()}
    for foreign in ("backbone.stage9.0.conv1.weight", "head.fpn_in.2.0.weight", "fc.weight"):
        with pytest.raises(ValueError, match=f"{foreign}' is not a parameter of the official SFNet"):
            sfnet_state_to_ours(state | {foreign: torch.empty(0)})
    ours = sfnet_state_to_ours(state)
    with pytest.raises(ValueError, match=r"head.aligns.p5.flow.weight' is not a parameter of an SFNet with the"):
        sfnet_state_to_official(ours | {"sem_seg_head.aligns.p5.flow.weight": torch.empty(0)})
    with pytest.raises(ValueError, match=r"not weights of an SFNet .*no name begins with layer0\.\*"):
        sfnet_state_to_ours({"conv1.weight": torch.empty(0)})


@pytest.mark.parametrize("name", ["R18", "DF1", "DF2"])
def test_a_head_alone_becomes_ours_and_comes_back(name):
    make, _ = OFFICIAL[name]
    whole = {key: torch.empty(shape, device="meta") for key, shape in make().items()}
    head = {key.removeprefix("head."): value for key, value in whole.items() if key.startswith("head.")}
    named = {} if name == "R18" else {"network": name}
    ours = sfnet_state_to_ours(head, **named)
    expected = {k: v for k, v in sfnet_state_to_ours(whole).items() if not k.startswith("backbone.bottom_up.")}
    assert ours.keys() == expected.keys() and all(ours[key] is value for key, value in expected.items())
    back = sfnet_state_to_official(ours)
    assert back.keys() == head.keys() and all(back[key] is value for key, value in head.items())
    assert sfnet_state_to_ours({f"head.{key}": value for key, value in head.items()}, **named).keys() == ours.keys()


def test_the_tool_converts_a_head_alone(tmp_path, capsys):
    tool = runpy.run_path(str(CONFIGS.parents[1] / "tools" / "convert_checkpoint.py"))["main"]
    shapes = {key.removeprefix("head."): shape for key, shape in OFFICIAL["DF1"][0]().items() if key[:5] == "head."}
    head = {key: torch.full(shape, float(i)) for i, (key, shape) in enumerate(shapes.items())}
    official, ours, back = (str(tmp_path / f"{name}.pth") for name in ("official", "ours", "back"))
    torch.save(head, official)
    config = str(CONFIGS / "semantic_DF1_SFNet_sfsegnets.yaml")
    tool([official, ours, "--paper", "sfnet-df1", "--config-file", config, "--quiet"])
    tool([ours, back, "--paper", "sfnet", "--to", "official", "--quiet"])
    found = torch.load(back)["model"]
    assert found.keys() == head.keys() and all(torch.equal(found[key], value) for key, value in head.items())
    for words, message in (
        (["--paper", "sfnet"], "a head of 3 levels belongs to DF1 or DF2; say which one by --paper sfnet-df1 or"),
        (["--paper", "sfnet-df2", "--config-file", config], "the weights do not fit the network of the config"),
    ):
        with pytest.raises(SystemExit) as end:
            tool([official, str(tmp_path / "other.pth"), *words])
        assert end.value.code == 2 and message in capsys.readouterr().err


def test_heads_that_fit_no_network():
    head = {key.removeprefix("head."): torch.empty(0) for key in OFFICIAL["R18"][0]() if key.startswith("head.")}
    with pytest.raises(ValueError, match="a head of 4 levels belongs to ResNet; it cannot be that of DF1"):
        sfnet_state_to_ours(head, network="DF1")
    with pytest.raises(ValueError, match=r"'fc\.weight' is not a parameter of the head of the official SFNet"):
        sfnet_state_to_ours(head | {"fc.weight": torch.empty(0)})
    with pytest.raises(ValueError, match=r"whose finest lateral convolution is backbone\.fpn_lateral2, 3 or 4"):
        sfnet_state_to_official({"backbone.fpn_lateral5.weight": torch.empty(0)})
