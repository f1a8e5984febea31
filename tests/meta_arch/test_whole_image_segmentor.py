"""Sizes that no stride divides, the same network in Detectron2's segmentor where it pads nothing, errors."""

import pytest
import torch
from detectron2.modeling import build_model
from torch.nn import functional as F

from tests.heads.test_aligned_decoder import resnet_cfg

SIZES = [(61, 90), (40, 33)]


def network(architecture, **resnets):
    cfg = resnet_cfg(["res4", "res5"], NAME="SingleLevelHead", IN_FEATURES=["res5"])
    cfg.MODEL.META_ARCHITECTURE = architecture
    for key, value in resnets.items():
        cfg.MODEL.RESNETS[key] = value
    torch.manual_seed(1)
    return build_model(cfg)


def samples(sizes, **more):
    return [
        {"image": torch.randint(0, 255, (3, *size)), "sem_seg": torch.randint(0, 5, size), **more} for size in sizes
    ]


@torch.no_grad()
def test_equal_to_detectron2s_where_that_pads_nothing():
    inputs = samples([(64, 96)] * 2, height=50, width=120)
    ours, theirs = network("WholeImageSegmentor").eval(), network("SemanticSegmentor").eval()
    for got, expected in zip(ours(inputs), theirs(inputs)):
        assert got["sem_seg"].shape == (5, 50, 120)
        torch.testing.assert_close(got["sem_seg"], expected["sem_seg"])


@torch.no_grad()
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_logits_span_the_image_whatever_its_size(ceil_mode):
    model = network("WholeImageSegmentor", STEM_CEIL_MODE=ceil_mode).eval()
    (sample,) = samples([(61, 90)])
    image = (sample["image"] - model.pixel_mean) / model.pixel_std
    small = model.sem_seg_head.layers(model.backbone(image[None]))
    expected = F.interpolate(small, (61, 90), mode="bilinear", align_corners=True)[0]
    torch.testing.assert_close(model([sample])[0]["sem_seg"], expected)


def test_trains_on_images_of_several_sizes():
    model = network("WholeImageSegmentor").train()
    losses = model(samples(SIZES))
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        outputs = model.eval()(samples(SIZES))
    assert [tuple(x["sem_seg"].shape[-2:]) for x in outputs] == SIZES
    with pytest.raises(ValueError, match="trained on labels, but the samples have no 'sem_seg'"):
        model.train()([{"image": torch.zeros(3, 64, 64)}] * 2)


def test_padding_between_images_is_ignored_in_training(monkeypatch):
    model = network("WholeImageSegmentor").train()
    seen = []
    monkeypatch.setattr(model.sem_seg_head, "loss", lambda logits, target: seen.append(target) or logits.sum() * 0)
    model(samples(SIZES))
    assert seen[0].shape == (2, 61, 90)
    assert (seen[0][1, 40:] == 255).all() and (seen[0][1, :, 33:] == 255).all() and (seen[0][1, :40, :33] < 5).all()


def test_a_head_that_takes_no_size():
    cfg = resnet_cfg(["res4", "res5"], NAME="SemSegFPNHead", IN_FEATURES=["res5"])
    cfg.MODEL.SEM_SEG_HEAD.COMMON_STRIDE = 32
    cfg.MODEL.META_ARCHITECTURE = "WholeImageSegmentor"
    with pytest.raises(ValueError, match="which SemSegFPNHead does not take; use SemanticSegmentor"):
        build_model(cfg)
