"""Official PanopticFCN state dicts, written down by their names and shapes, fill our networks and come back."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from fapn_d2.checkpoint.convert import check_fits, convert_state
from fapn_d2.checkpoint.keys.panoptic_fcn import panoptic_fcn_state_to_official, panoptic_fcn_state_to_ours
from fapn_d2.config.loading import load_config

from ..test_convert import OFFICIAL_NECK

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "fapn"
GN = {"norm.weight": (256,), "norm.bias": (256,)}


def layers(prefix, first, width, *, deformable=False, norm=True):
    """The hidden layers of an official head."""
    shapes = {}
    for i, channels in enumerate((first, width, width), start=1):
        name = f"{prefix}_{i}"
        if deformable:
            shapes |= {f"{name}.offset_mask_conv.weight": (27, channels, 3, 3), f"{name}.offset_mask_conv.bias": (27,)}
            name += ".dcnv2"
        shapes[f"{name}.weight"] = (width, channels, 3, 3)
        shapes |= {f"{name}.{key}": shape for key, shape in GN.items()} if norm else {f"{name}.bias": (width,)}
    return shapes


def conv(name, outputs, inputs, kernel):
    return {f"{name}.weight": (outputs, inputs, kernel, kernel), f"{name}.bias": (outputs,)}


def official_shapes(neck):
    """Everything of the official network but the bottom-up one."""
    if neck == "FaPN":
        shapes = {f"backbone.{name}": shape for name, shape in OFFICIAL_NECK.items()}
    else:
        shapes = {}
        for level, channels in ((2, 256), (3, 512), (4, 1024), (5, 2048)):
            shapes |= conv(f"backbone.fpn_lateral{level}", 256, channels, 1)
            shapes |= conv(f"backbone.fpn_output{level}", 256, 256, 3)
    for name in ("p6", "p7"):
        shapes |= conv(f"backbone.top_block.{name}", 256, 256, 3)
    for name in ("p2.0", "p3.0", "p4.0", "p4.2", "p5.0", "p5.2", "p5.4"):
        shapes[f"semantic_fpn.{name}.weight"] = (256, 256, 3, 3)
        shapes |= {f"semantic_fpn.{name}.{key}": shape for key, shape in GN.items()}
    shapes |= layers("position_head.position_head.position_head_head", 256, 256, deformable=True)
    shapes |= conv("position_head.out_inst", 80, 256, 3) | conv("position_head.out_sem", 54, 256, 3)
    shapes |= layers("kernel_head.kernel_head.kernel_head_head", 258, 256) | conv("kernel_head.out_conv", 256, 256, 3)
    shapes |= layers("feature_encoder.encode_head.encode_head_head", 258, 64, norm=False)
    for kind in ("thing", "stuff"):
        shapes |= conv(f"{kind}_generator.embed_extractor", 64, 256, 1)
    return shapes


@pytest.mark.parametrize("neck", ["FPN", "FaPN"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_whole_network_fills_ours_and_returns(neck, wrapped):
    cfg = load_config(str(CONFIGS / f"panopticfcn_R_50_{neck}_1x.yaml"), ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        state = build_model(cfg).state_dict()
    bottom_up = {name: value.shape for name, value in state.items() if name.startswith("backbone.bottom_up.")}
    shapes = bottom_up | official_shapes(neck)
    official = {name: torch.tensor(float(i)).expand(shape) for i, (name, shape) in enumerate(shapes.items(), 1)}
    prefix = "module." if wrapped else ""
    there = convert_state({prefix + name: value for name, value in official.items()}, paper="panopticfcn", to="ours")
    check_fits(there.weights, cfg)
    assert set(there.weights) == set(state)
    assert not there.dropped and not there.rearranged
    assert there.weights["position_head.tower.1.norm.bias"].max() == (
        official["position_head.position_head.position_head_head_2.dcnv2.norm.bias"].max()
    )
    assert there.weights["kernel_head.tower.0.norm.bias"].max() == (
        official["kernel_head.kernel_head.kernel_head_head_1.norm.bias"].max()
    )
    back = convert_state(there.weights, paper="panopticfcn", to="official")
    assert back.weights.keys() == official.keys()
    assert all(torch.equal(value, official[name]) for name, value in back.weights.items())


def test_deformable_layers_in_the_other_heads():
    """The authors' larger networks have them in the feature encoder, too."""
    shapes = official_shapes("FPN") | layers("feature_encoder.encode_head.encode_head_head", 258, 256, deformable=True)
    official = {name: torch.zeros(shape) for name, shape in shapes.items() if not name.endswith("_3.bias")}
    ours = panoptic_fcn_state_to_ours(official)
    assert "feature_encoder.tower.0.deform_conv.weight" in ours and "feature_encoder.tower.0.norm.bias" in ours
    assert panoptic_fcn_state_to_official(ours).keys() == official.keys()


def test_other_networks_are_refused():
    with pytest.raises(ValueError, match=r"no official PanopticFCN \(position_head.out_inst.weight, ...\) among the 1"):
        panoptic_fcn_state_to_ours({"backbone.fpn_lateral5.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="there is no PanopticFCN of ours"):
        panoptic_fcn_state_to_official({"position_head.out_inst.weight": torch.zeros(1)})
    neck = {"position_head.center.weight": torch.zeros(1), "backbone.fpn_align4.flow.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match="the neck differs from the official FaPN"):
        panoptic_fcn_state_to_official(neck)
