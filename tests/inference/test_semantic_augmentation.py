"""TEST.AUG for MaskFormer: the official average, and who may use it."""

import pytest
import torch
from detectron2.config import get_cfg
from torch import nn
from torch.nn import functional as F

from fapn_d2.config.loading import load_config
from fapn_d2.inference.box_augmentation import augmented, check_augmentation
from fapn_d2.inference.semantic import check_inference
from tests.heads.mask_former.arrays import load


class Toy(nn.Module):
    """The network of the reference: one convolution of stride 4, a sigmoid, resized to the size that is asked for."""

    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.seen = []

    def forward(self, batched_inputs):
        (sample,) = batched_inputs
        self.seen.append(list(sample["image"].shape[-2:]))
        x = (sample["image"][None].double() - 128) / 64
        scores = F.conv2d(x, self.weight, self.bias, stride=4, padding=1).sigmoid()
        size = (sample["height"], sample["width"])
        return [{"sem_seg": F.interpolate(scores, size, mode="bilinear", align_corners=False)[0]}]


def config(meta, *opts):
    cfg = load_config("", ["MODEL.META_ARCHITECTURE", "MaskFormer", "TEST.AUG.ENABLED", True, *opts])
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.MAX_SIZE, cfg.TEST.AUG.FLIP = meta["min_sizes"], meta["max_size"], meta["flip"]
    return cfg


def test_average_is_the_official_one(reference):
    meta, arrays = load(reference, "tta")
    toy = Toy(arrays["in/weight"], arrays["in/bias"]).eval()
    model = augmented(config(meta), toy)
    height, width = meta["output_size"]
    sample = {"image": arrays["in/image"], "height": height, "width": width}
    (output,) = model([sample])
    assert toy.seen == meta["views_in_order"]
    torch.testing.assert_close(output["sem_seg"], arrays["out64/sem_seg"], rtol=1e-9, atol=1e-9)
    assert set(sample) == {"image", "height", "width"}


def test_who_may_use_it():
    cfg = load_config("", ["TEST.AUG.ENABLED", True, "MODEL.META_ARCHITECTURE", "MaskFormer"])
    check_augmentation(cfg)
    cfg.MODEL.META_ARCHITECTURE = "PanopticMaskFormer"
    with pytest.raises(ValueError, match=r"MODEL.META_ARCHITECTURE is PanopticMaskFormer"):
        check_augmentation(cfg)


def test_sums_of_probabilities_get_no_softmax():
    opts = ["MODEL.META_ARCHITECTURE", "MaskFormer", "TEST.SEM_SEG.FLIP", True]
    check_inference(load_config("", opts))
    with pytest.raises(ValueError, match=r"sums of probabilities already"):
        check_inference(load_config("", [*opts, "TEST.SEM_SEG.AVERAGE", "probabilities"]))
    with pytest.raises(ValueError, match=r"PanopticMaskFormer predicts objects"):
        check_inference(load_config("", [*opts, "MODEL.META_ARCHITECTURE", "PanopticMaskFormer"]))


def test_evaluation_mode_comes_and_goes_with_the_wrapper(reference):
    meta, _ = load(reference, "tta")
    toy = Toy(torch.zeros(1, 3, 3, 3), torch.zeros(1)).train()
    wrapped = augmented(config(meta), toy)
    assert wrapped.training and not wrapped.eval().model.training and wrapped.train(True).model.training
    assert get_cfg().TEST.AUG.ENABLED is False
