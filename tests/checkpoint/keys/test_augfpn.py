"""State dicts of whole official AugFPN detectors, as their keys and shapes are known, convert strictly both ways."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from fapn_d2.checkpoint.keys.augfpn import augfpn_state_to_official, augfpn_state_to_ours
from fapn_d2.config.loading import load_config

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "augfpn"


def conv(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": (shape[0],)}


def transposed(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": (shape[1],)}


def norm(name, channels):
    kinds = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{kind}": (channels,) for kind in kinds} | {f"{name}.num_batches_tracked": ()}


def resnet50():
    shapes = {"backbone.conv1.weight": (64, 3, 7, 7), **norm("backbone.bn1", 64)}
    before = 64
    for layer, blocks in ((1, 3), (2, 4), (3, 6), (4, 3)):
        width = 32 * 2**layer
        for block in range(blocks):
            stem = f"backbone.layer{layer}.{block}"
            for k, shape in enumerate([(width, before, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)], 1):
                shapes |= {f"{stem}.conv{k}.weight": shape, **norm(f"{stem}.bn{k}", shape[0])}
            if block == 0:
                shapes |= {f"{stem}.downsample.0.weight": (4 * width, before, 1, 1)}
                shapes |= norm(f"{stem}.downsample.1", 4 * width)
            before = 4 * width
    return shapes


def asf(name, maps):
    return conv(f"{name}.0", 256, 256 * maps, 1, 1) | conv(f"{name}.2", maps, 256, 3, 3)


def neck(channels):
    shapes = {}
    for i, c in enumerate(channels):
        shapes |= conv(f"neck.lateral_convs.{i}.conv", 256, c, 1, 1) | conv(f"neck.fpn_convs.{i}.conv", 256, 256, 3, 3)
    for j in range(3):
        shapes |= conv(f"neck.high_lateral_conv.{j}", 256, 2048, 1, 1)
    return shapes | asf("neck.high_lateral_conv_attention", 3)


def box_head(name):
    shapes = conv(f"{name}.shared_fcs.0", 1024, 12544) | conv(f"{name}.shared_fcs.1", 1024, 1024)
    return shapes | conv(f"{name}.fc_cls", 81, 1024) | conv(f"{name}.fc_reg", 324, 1024)


def mask_head(name):
    shapes = {}
    for i in range(4):
        shapes |= conv(f"{name}.convs.{i}.conv", 256, 256, 3, 3)
    return shapes | transposed(f"{name}.upsample", 256, 256, 2, 2) | conv(f"{name}.conv_logits", 81, 256, 1, 1)


def mask_rcnn():
    shapes = resnet50() | neck((256, 512, 1024, 2048))
    shapes |= conv("rpn_head.rpn_conv", 256, 256, 3, 3) | conv("rpn_head.rpn_cls", 3, 256, 1, 1)
    shapes |= conv("rpn_head.rpn_reg", 12, 256, 1, 1)
    for kind in ("bbox", "mask"):
        shapes |= asf(f"{kind}_roi_extractor.spatial_attention_conv", 4)
    for prefix in ("", "auxiliary_"):
        shapes |= box_head(f"{prefix}bbox_head") | mask_head(f"{prefix}mask_head")
    return shapes


def faster_rcnn():
    return {name: shape for name, shape in mask_rcnn().items() if "mask" not in name}


def meta(shapes):
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def model(name):
    cfg = load_config(str(CONFIGS / name), ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        return build_model(cfg)


@pytest.mark.parametrize(("name", "shapes"), [("mask_rcnn", mask_rcnn()), ("faster_rcnn", faster_rcnn())])
def test_whole_detectors(name, shapes):
    network = model(f"{name}_R_50_AugFPN_1x.yaml")
    # Counters of batches are not weights; whether a network has them depends on how its norms are frozen.
    counters = {key: value for key, value in network.state_dict().items() if key.endswith("num_batches_tracked")}
    network.load_state_dict(augfpn_state_to_ours(meta(shapes)) | counters, strict=True, assign=True)
    back = {key: tuple(value.shape) for key, value in augfpn_state_to_official(network.state_dict()).items()}
    assert back == {key: shape for key, shape in shapes.items() if not key.endswith("num_batches_tracked")}


@pytest.mark.parametrize("source", ["retinanet", "fcos"])
def test_one_stage_parts(source):
    """Dense heads aside, of which the official keys are not known."""
    network = model(f"{source}_R_50_AugFPN_1x.yaml")
    shapes = resnet50() | neck((512, 1024, 2048)) | box_head("auxiliary_bbox_head")
    shapes |= conv("neck.fpn_convs.3.conv", 256, 2048 if source == "retinanet" else 256, 3, 3)
    shapes |= conv("neck.fpn_convs.4.conv", 256, 256, 3, 3)
    ours = augfpn_state_to_ours(meta(shapes))
    expected = {key: value.shape for key, value in network.state_dict().items() if not key.startswith("head.")}
    expected = {key: shape for key, shape in expected.items() if not key.endswith("num_batches_tracked")}
    assert {key: value.shape for key, value in ours.items()} == expected
    back = augfpn_state_to_official(ours)
    assert set(back) == {key for key in shapes if not key.endswith("num_batches_tracked")}


def test_background_moves():
    official = {
        "bbox_head.fc_cls.bias": torch.arange(4.0),  # 0 is the background
        "bbox_head.fc_reg.bias": torch.arange(16.0),
        "auxiliary_mask_head.conv_logits.bias": torch.arange(4.0),
        "rpn_head.rpn_cls.bias": torch.arange(3.0),
    }
    ours = augfpn_state_to_ours(official)
    assert ours["roi_heads.box_predictor.cls_score.bias"].tolist() == [1, 2, 3, 0]
    assert ours["roi_heads.box_predictor.bbox_pred.bias"].tolist() == list(range(4, 16))
    assert ours["roi_heads.consistent_supervision.mask_head.predictor.bias"].tolist() == [1, 2, 3]
    assert ours["proposal_generator.rpn_head.objectness_logits.bias"].tolist() == [0, 1, 2]
    back = augfpn_state_to_official(ours)
    assert back["bbox_head.fc_cls.bias"].tolist() == [0, 1, 2, 3]
    assert back["bbox_head.fc_reg.bias"].tolist() == [0, 0, 0, 0, *range(4, 16)]
    assert back["auxiliary_mask_head.conv_logits.bias"].tolist() == [0, 1, 2, 3]
