"""SFNet's decoder head: the official head's arrays and losses, its wiring, what it does without labels, errors."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone, build_model
from detectron2.modeling.meta_arch import build_sem_seg_head
from torch.nn import functional as F

from fapn_d2 import add_fapn_config
from fapn_d2.checkpoint.keys.sfnet import sfnet_state_to_ours
from tests.toys.pyramids import GivenMaps

CHANNELS = {"res3": 12, "res4": 16, "res5": 32}


@BACKBONE_REGISTRY.register()
def build_maps_like_df1(cfg, input_shape):
    return GivenMaps(CHANNELS, {"res3": 16, "res4": 32, "res5": 32})


def toy_cfg(norm="BN", classes=5, **head):
    cfg = get_cfg()
    add_fapn_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_sfnet_backbone"
    cfg.MODEL.NECK.BOTTOM_UP = "build_maps_like_df1"
    cfg.MODEL.NECK.TOP_BLOCK = "none"
    cfg.MODEL.NECK.EXTRA_OUTPUTS = ["merged", "bottom_up"]
    cfg.MODEL.FPN.IN_FEATURES = list(CHANNELS)
    cfg.MODEL.FPN.OUT_CHANNELS = cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 16
    cfg.MODEL.FPN.NORM = cfg.MODEL.SEM_SEG_HEAD.NORM = norm
    cfg.MODEL.SEM_SEG_HEAD.NAME = "AlignedDecoderHead"
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["p4", "p5", "p6"]
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = classes
    cfg.MODEL.SEM_SEG_HEAD.DEEP_SUPERVISION.FEATURES = ["merged5", "merged4"]
    for key, value in head.items():
        node = cfg.MODEL.SEM_SEG_HEAD
        *path, leaf = key.split("__")
        for part in path:
            node = node[part]
        node[leaf] = value
    return cfg


def toy_maps(size=(6, 10), batch=2, dtype=torch.float32):
    h, w = size
    sizes = {"res3": (h, w), "res4": (-(-h // 2), -(-w // 2)), "res5": (-(-h // 2), -(-w // 2))}
    return {name: torch.randn(batch, CHANNELS[name], *sizes[name], dtype=dtype) for name in CHANNELS}


def toy_network(**head):
    cfg = toy_cfg(**head)
    pyramid = build_backbone(cfg, ShapeSpec(channels=3))
    return pyramid, build_sem_seg_head(cfg, pyramid.output_shape())


@pytest.mark.parametrize(("dtype", "bits", "atol"), [(torch.float64, 64, 1e-9), (torch.float32, 32, 5e-5)])
@pytest.mark.parametrize("case", ["even", "df1like", "odd"])
def test_official_head(reference, case, dtype, bits, atol):
    arrays = np.load(reference / "sfnet" / "head3.npz")
    network = torch.nn.Module()
    network.backbone, network.sem_seg_head = toy_network()
    official = {key[3:]: torch.from_numpy(arrays[key]) for key in arrays.files if key.startswith("sd/")}
    state = sfnet_state_to_ours(official, network="DF1")
    network.load_state_dict(state, strict=True)
    network.to(dtype).eval()
    maps = {name: torch.from_numpy(arrays[f"{case}/feat{i}"]).to(dtype) for i, name in enumerate(CHANNELS)}
    seen = {}
    for i in (0, 1):
        align = getattr(network.backbone, f"fpn_align{4 + i}")
        align.register_forward_hook(lambda module, args, out, i=i: seen.update({f"fpn_out_align.{i}": out}))
        align.flow.register_forward_hook(
            lambda module, args, out, i=i: seen.update({f"fpn_out_align.{i}.flow_make": out})
        )
    network.backbone.training = True  # gives the merged maps; norms and dropout stay in evaluation
    features = network.backbone(maps)
    head = network.sem_seg_head
    expected = torch.from_numpy(arrays[f"{case}/out{bits}"])
    torch.testing.assert_close(head.layers(features), expected, rtol=0, atol=atol)
    for i, feature in enumerate(("merged5", "merged4")):  # from coarse to fine, as the official list
        expected = torch.from_numpy(arrays[f"{case}/aux{i}_{bits}"])
        torch.testing.assert_close(head.auxiliary[feature](features[feature]), expected, rtol=0, atol=atol)
    if bits == 64:
        seen["ppm"] = features["p6"]
        for name, value in seen.items():
            torch.testing.assert_close(value, torch.from_numpy(arrays[f"{case}/tap64/{name}"]), rtol=0, atol=atol)


def test_official_sum_of_losses(reference):
    """Main and three auxiliary logits, each resized to the labels and mined on its own, weight 1."""
    arrays = np.load(reference / "sfnet" / "loss.npz")
    _, head = toy_network(LOSS="ohem", OHEM__MIN_KEPT=100, OHEM__KEEP_FRACTION=0.0)
    target = torch.from_numpy(arrays["crit/target"])
    main, *auxiliary = (torch.from_numpy(arrays[f"crit/{name}"]).double() for name in ("main", "aux0", "aux1", "aux2"))
    features = dict(zip(("merged6", "merged5", "merged4"), auxiliary))
    head.auxiliary = torch.nn.ModuleDict({name: torch.nn.Identity() for name in features})
    head.supervision = [replace(head.supervision[0], feature=name) for name in features]
    total = sum(head.losses(main, features, target).values())
    assert total.item() == pytest.approx(arrays["crit/loss64"].item(), abs=1e-9)


def test_losses_are_named_weighted_and_reach_every_parameter():
    options = dict(
        LOSS="ohem",
        LOSS_WEIGHT=0.5,
        DEEP_SUPERVISION__FEATURES=["merged5", "res4"],
        DEEP_SUPERVISION__WEIGHTS=[1.0, 0.4],
        DEEP_SUPERVISION__LOSSES=["cross_entropy", "ohem"],
        DEEP_SUPERVISION__CHANNELS=[0, 8],
        DEEP_SUPERVISION__DROPOUT=0.0,
    )
    pyramid, head = toy_network(**options)
    assert head.auxiliary["merged5"].conv.out_channels == 16 and head.auxiliary["res4"].conv.out_channels == 8
    assert head.auxiliary["res4"].conv.in_channels == CHANNELS["res4"]
    maps, target = toy_maps(), torch.randint(0, 5, (2, 96, 160))
    features = pyramid(maps)
    logits, losses = head(features, target)
    assert logits is None and list(losses) == ["loss_sem_seg", "loss_sem_seg_merged5", "loss_sem_seg_res4"]
    sum(losses.values()).backward()
    parameters = dict(pyramid.named_parameters()) | dict(head.named_parameters())
    assert not [name for name, p in parameters.items() if p.grad is None or not p.grad.isfinite().all()]

    resized = F.interpolate(
        head.auxiliary["merged5"](features["merged5"]), (96, 160), mode="bilinear", align_corners=True
    )
    torch.testing.assert_close(losses["loss_sem_seg_merged5"], 0.5 * F.cross_entropy(resized, target))
    whole = F.interpolate(head.auxiliary["res4"](features["res4"]), (96, 160), mode="bilinear", align_corners=True)
    expected = 0.5 * 0.4 * head.supervision[1].loss(whole, target)
    torch.testing.assert_close(losses["loss_sem_seg_res4"], expected)
    assert head.supervision[1].loss.keywords["threshold"] == 0.7


def test_fusion_resamples_to_the_finest_level_from_fine_to_coarse():
    for align_corners in (True, False):
        pyramid, head = toy_network(ALIGN_CORNERS=align_corners)
        features = pyramid.eval()(toy_maps((7, 9)))
        head.eval()
        resized = [
            F.interpolate(features[name], (7, 9), mode="bilinear", align_corners=align_corners)
            for name in ("p4", "p5", "p6")
        ]
        small = head.predictor(head.fuse(torch.cat(resized, dim=1)))
        torch.testing.assert_close(head.layers(features), small)
        logits, losses = head(features)
        expected = F.interpolate(small, (7 * 16, 9 * 16), mode="bilinear", align_corners=align_corners)
        torch.testing.assert_close(logits, expected)
        assert losses == {}
        assert head(features, size=(101, 133))[0].shape == (2, 5, 101, 133)


def test_fusion_by_flow():
    pyramid, head = toy_network(FUSION_ALIGN="flow")
    features = pyramid(toy_maps())
    _, losses = head(features, torch.randint(0, 5, (2, 96, 160)))
    sum(losses.values()).backward()
    assert set(head.aligns) == {"p5", "p6"} and all(p.grad.any() for p in head.aligns.parameters())
    plain = toy_network()[1]
    extra = sum(p.numel() for p in head.parameters()) - sum(p.numel() for p in plain.parameters())
    assert extra == 2 * (16 * 16 + 18 * 16)


def test_nothing_labelled_gives_zero_with_gradients():
    pyramid, head = toy_network(LOSS="ohem")
    _, losses = head(pyramid(toy_maps()), torch.full((2, 96, 160), 255))
    assert all(loss.item() == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype):
    pyramid, head = toy_network(norm="")
    maps, target = toy_maps(), torch.randint(0, 5, (2, 96, 160))
    with torch.autocast("cpu", dtype=dtype):
        _, losses = head(pyramid(maps), target)
        sum(losses.values()).backward()
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_training_and_inference_under_cuda_autocast(dtype):
    pyramid, head = toy_network(LOSS="ohem", FUSION_ALIGN="flow")
    pyramid, head = pyramid.cuda(), head.cuda()
    maps = {name: value.cuda() for name, value in toy_maps().items()}
    with torch.autocast("cuda", dtype=dtype):
        _, losses = head(pyramid(maps), torch.randint(0, 5, (2, 96, 160), device="cuda"))
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in (*pyramid.parameters(), *head.parameters()))
    pyramid.eval(), head.eval()
    with torch.no_grad():
        expected = head(pyramid(maps))[0]
        with torch.autocast("cuda", dtype=dtype):
            got = head(pyramid(maps))[0]
    assert (got.float() - expected).norm() / expected.norm() < 0.05  # bf16 has 8 bits, ten layers deep


def resnet_cfg(features, **head):
    cfg = toy_cfg(**({"DEEP_SUPERVISION__FEATURES": []} | head))
    cfg.MODEL.BACKBONE.NAME = "build_deep_stem_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.NORM = 18, "BN"
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 16, 8
    cfg.MODEL.RESNETS.OUT_FEATURES = features
    return cfg


def test_in_detectron2s_segmentor():
    """Whole images of any size, trained and segmented; here an FCN of stride 8 with a classifier on an earlier map."""
    cfg = resnet_cfg(["res4", "res5"], NAME="SingleLevelHead", IN_FEATURES=["res5"])
    cfg.MODEL.SEM_SEG_HEAD.DEEP_SUPERVISION.FEATURES = ["res4"]
    cfg.MODEL.RESNETS.OUTPUT_STRIDE = 8
    model = build_model(cfg)
    samples = [
        {
            "image": torch.randint(0, 255, (3, 61, 90)),
            "sem_seg": torch.randint(0, 5, (61, 90)),
            "height": 50,
            "width": 70,
        }
        for _ in range(2)
    ]
    losses = model.train()(samples)
    assert list(losses) == ["loss_sem_seg", "loss_sem_seg_res4"]
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    with torch.no_grad():
        outputs = model.eval()(samples)
    assert outputs[0]["sem_seg"].shape == (5, 50, 70)
    del samples[0]["sem_seg"]
    with pytest.raises(ValueError, match="SingleLevelHead is trained on labels, but the samples have no 'sem_seg'"):
        model.train()([samples[0]])


ERRORS = [
    (
        dict(IN_FEATURES=["p4", "p7"]),
        r"IN_FEATURES = \['p4', 'p7'\]: the backbone gives \['p4', 'p5', 'p6'\], not \['p7'\]",
    ),
    (dict(IN_FEATURES=[]), "AlignedDecoderHead reads no level"),
    (dict(FUSION_ALIGN="deform"), "FUSION_ALIGN: unknown 'deform'; allowed: bilinear, flow"),
    (dict(LOSS="focal"), "MODEL.SEM_SEG_HEAD: unknown loss 'focal'; allowed: cross_entropy, ohem"),
    (dict(NAME="SingleLevelHead"), r"SingleLevelHead reads one map, but .* = \['p4', 'p5', 'p6'\]; name one"),
    (dict(DEEP_SUPERVISION__WEIGHTS=[1.0]), r"DEEP_SUPERVISION.WEIGHTS = \[1.0\] needs an entry for each of FEATURES"),
    (
        dict(DEEP_SUPERVISION__FEATURES=["merged7"]),
        "the map 'merged7', which does not exist; available maps: p4, p5",
    ),
    (
        dict(DEEP_SUPERVISION__FEATURES=["res9"]),
        "names the map 'res9', which does not exist; available maps: p4, p5, p6, merged4, merged5, merged6, res3, res4",
    ),
    (
        dict(DEEP_SUPERVISION__FEATURES=["lateral4"]),
        "'lateral4', .* only if MODEL.NECK.EXTRA_OUTPUTS has 'lateral'",
    ),
]


@pytest.mark.parametrize(("options", "message"), ERRORS)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        toy_network(**options)
