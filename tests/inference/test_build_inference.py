"""TEST.SEM_SEG around networks of configs, and networks that it refuses."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from torch.nn import functional as F

from fapn_d2.config.loading import load_config
from fapn_d2.inference.semantic import build_inference, check_inference
from tests.heads.test_aligned_decoder import resnet_cfg
from tests.toys import detectors as toy_detectors  # noqa: F401  (registers build_tiny_bottom_up)


def picture(*size):
    return torch.randint(0, 256, (3, *size)).to(torch.uint8)


def network(**test):
    cfg = resnet_cfg(["res4", "res5"], NAME="SingleLevelHead", IN_FEATURES=["res5"])
    cfg.MODEL.META_ARCHITECTURE = "WholeImageSegmentor"
    cfg.TEST.SEM_SEG.update(test)
    return cfg, build_model(cfg).eval()


def test_by_default_the_model_itself_is_tested():
    cfg, model = network()
    assert build_inference(cfg, model) is model
    cfg.TEST.SEM_SEG.CROP_SIZE, cfg.TEST.SEM_SEG.BATCH = (5, 5), 1  # of windows, which there are none of
    assert build_inference(cfg, model) is model


@torch.no_grad()
def test_a_real_network_by_config():
    cfg, model = network(MODE="slide", CROP_SIZE=(64, 96), SCALES=[1.0], FLIP=True)
    wrapped = build_inference(cfg, model.double())
    image = picture(64, 96)
    sample = {"image": image, "height": 50, "width": 70, "sem_seg": torch.zeros(64, 96)}
    (got,) = wrapped([sample])
    plain = model([{"image": image}, {"image": image.flip(-1)}])
    expected = (plain[0]["sem_seg"] + plain[1]["sem_seg"].flip(-1)) / 2
    expected = F.interpolate(expected[None], (50, 70), mode="bilinear")[0]
    torch.testing.assert_close(got["sem_seg"], expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_pointrend():
    """Its head refines a batch of windows as it refines each of them."""
    config = Path(__file__).resolve().parents[2] / "configs" / "fapn" / "pointrend_semantic_R_50_FPN_cityscapes.yaml"
    # All points are refined: which are the most uncertain, a last bit could decide.
    small = ("MODEL.NECK.BOTTOM_UP", "build_tiny_bottom_up", "MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS", 100000)
    small = (*small, "MODEL.FPN.OUT_CHANNELS", 32, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32, "MODEL.POINT_HEAD.FC_DIM", 16)
    windows = ("TEST.SEM_SEG.MODE", "slide", "TEST.SEM_SEG.CROP_SIZE", (64, 64), "TEST.SEM_SEG.FLIP", True)
    cfg = load_config(str(config), ["MODEL.DEVICE", "cpu", *small, *windows])
    model = build_model(cfg).eval()
    sample = {"image": picture(64, 110)}
    together = build_inference(cfg, model)([sample])[0]["sem_seg"]
    cfg.TEST.SEM_SEG.BATCH = 1
    assert together.shape == (19, 64, 110)
    (alone,) = build_inference(cfg, model)([sample])
    torch.testing.assert_close(alone["sem_seg"], together, rtol=1e-4, atol=1e-5 * together.abs().max().item())


@pytest.mark.gpu
@pytest.mark.parametrize("accumulate", ["", "cpu"])
def test_on_cuda_as_on_the_cpu(accumulate):
    cfg, model = network(MODE="slide", CROP_SIZE=(64, 64), SCALES=[0.75, 1.5], FLIP=True)
    sample = {"image": picture(90, 120), "height": 100, "width": 130}
    (expected,) = build_inference(cfg, model)([sample])
    cfg.TEST.SEM_SEG.ACCUMULATE = accumulate
    (got,) = build_inference(cfg, model.cuda())([sample])
    assert got["sem_seg"].device.type == (accumulate or "cuda")
    torch.testing.assert_close(got["sem_seg"].cpu(), expected["sem_seg"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["GeneralizedRCNN", "PanopticFPN", "RetinaNet", "FCOS"])
def test_networks_that_predict_objects_are_refused(name):
    cfg = load_config("", ["MODEL.META_ARCHITECTURE", name])
    assert check_inference(cfg).plain
    cfg.TEST.SEM_SEG.FLIP = True
    message = rf"TEST.SEM_SEG averages semantic scores \(its MODE.*MODEL.META_ARCHITECTURE {name} predicts objects"
    with pytest.raises(ValueError, match=message):
        check_inference(cfg)
