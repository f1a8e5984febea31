"""DF1 and DF2: official parameters stage by stage, sizes, and more stages than Detectron2's ResNet has names for."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY

from fapn_d2 import add_fapn_config
from fapn_d2.checkpoint.keys.df import df_module_to_official, df_module_to_ours
from fapn_d2.checkpoint.keys.imagenet import imagenet_state_to_ours

# facts of the official code
STAGES = {
    "df1": [19_488, 226_176, 820_992, 3_280_384, 3_673_088],
    "df2": [19_488, 152_192, 230_144, 2_970_880, 919_040, 4_788_736, 8_393_728],
}
LEVELS = {"df1": {"res3": (128, 16), "res4": (256, 32), "res5": (512, 32)}}
LEVELS["df2"] = {"res3": (128, 8), "res5": (256, 16), "res7": (512, 32)}


def build(name, features=None, norm="BN", freeze_at=0):
    cfg = get_cfg()
    add_fapn_config(cfg)
    cfg.MODEL.RESNETS.NORM = norm
    cfg.MODEL.RESNETS.OUT_FEATURES = list(LEVELS[name]) if features is None else features
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    return BACKBONE_REGISTRY.get(f"build_{name}_backbone")(cfg, ShapeSpec(channels=3))


@pytest.mark.parametrize("name", STAGES)
def test_parameters_by_stage(name):
    with torch.device("meta"):
        network = build(name)
    counts = [sum(p.numel() for p in child.parameters()) for child in network.children()]
    assert counts == STAGES[name]
    assert sum(counts) == {"df1": 8_020_128, "df2": 17_474_208}[name]
    shapes = {name: (shape.channels, shape.stride) for name, shape in network.output_shape().items()}
    assert shapes == LEVELS[name]


@pytest.mark.parametrize("name", STAGES)
def test_public_weights_fill_the_network(name):
    with torch.device("meta"):
        network = build(name)
    modules = {key.rpartition(".")[0] for key in network.state_dict()}
    official = {module: df_module_to_official(module, name.upper()) for module in modules}
    assert [df_module_to_ours(value, name.upper()) for value in official.values()] == list(official)
    assert official["stem.conv2.norm"] == "stage1.4"
    assert official["res3.0.shortcut"] == {"df1": "stage3.0.downsample.0", "df2": "stage2_2.0.downsample.0"}[name]
    state = {
        f"{official[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": v for key, v in network.state_dict().items()
    }
    weights = imagenet_state_to_ours(state | {"fc.weight": torch.zeros(1)})
    assert {key for key in network.state_dict() if not key.endswith("num_batches_tracked")} == weights.keys()
    with pytest.raises(ValueError, match=r"'stage9.0.conv1.weight' is not a parameter of DF"):
        imagenet_state_to_ours(state | {"stage9.0.conv1.weight": torch.zeros(1)})


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("size", [(64, 96), (75, 33)])
def test_maps_have_the_sizes_that_strides_say(name, size):
    network = build(name).eval()
    with torch.no_grad():
        maps = network(torch.randn(1, 3, *size))
    for feature, (channels, stride) in LEVELS[name].items():
        assert maps[feature].shape == (1, channels, *(-(-side // stride) for side in size))
        assert maps[feature].isfinite().all() and maps[feature].any()


def test_a_stride_without_more_channels_has_a_projection():
    """DF1's second stage: 64 channels to 64, where Detectron2's block would add maps of two sizes."""
    block = build("df1").res2[0]
    assert block.shortcut.weight.shape == (64, 64, 1, 1) and block.shortcut.stride == (2, 2)
    assert build("df1").res2[1].shortcut is None


def test_stages_that_nothing_needs_are_not_built():
    network = build("df2", ["stem", "res4"])
    assert [name for name, _ in network.named_children()] == ["stem", "res2", "res3", "res4"]
    assert list(network(torch.zeros(1, 3, 64, 64))) == ["stem", "res4"]


def test_freezing_and_norm():
    network = build("df1", norm="SyncBN", freeze_at=1)
    assert not any(p.requires_grad for p in network.stem.parameters())
    assert isinstance(network.res2[0].conv1.norm, torch.nn.SyncBatchNorm)  # all norms, not the official code's few


@pytest.mark.parametrize("features", [["res6"], []])
def test_unknown_maps(features):
    with pytest.raises(ValueError, match=r"OUT_FEATURES = \[.*\]; allowed: stem, res2, res3, res4, res5$"):
        build("df1", features)
