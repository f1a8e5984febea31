"""The whole network: results against the official arrays, images of all kinds."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, ImageList, Instances, PolygonMasks

from fapn_d2.config.keys import add_fapn_config
from fapn_d2.heads.mask_former.inference import panoptic_segments
from fapn_d2.meta_arch import MaskFormer
from tests.heads.mask_former.arrays import load


class Fixed(torch.nn.Module):
    """Stands for the head: predicts what it is given."""

    def __init__(self, logits, masks):
        super().__init__()
        self.predictions = logits[None], masks[None]

    def forward(self, features, *, last_only):
        return self.predictions


class NoBackbone(torch.nn.Module):
    size_divisibility = 0

    def forward(self, x):
        return {}


@pytest.mark.parametrize("order", ["after", "before"])
def test_semantic_results_are_the_official_ones(reference, order):
    meta, arrays = load(reference, "inference")
    model = MaskFormer(
        backbone=NoBackbone(),
        sem_seg_head=Fixed(arrays["in/pred_logits"], arrays["in/pred_masks"]),
        criterion=None,
        size_divisibility=meta["size_divisibility"],
        resize_before=order == "before",
        pixel_mean=[0.0],
        pixel_std=[1.0],
    ).eval()
    sizes = zip(meta["image_sizes"], meta["output_sizes"])
    samples = [{"image": torch.zeros(1, *size), "height": out[0], "width": out[1]} for size, out in sizes]
    for i, output in enumerate(model(samples)):
        expected = arrays[f"out64/image{i}/sem_seg_resized_{order}"]
        torch.testing.assert_close(output["sem_seg"], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("threshold", [0, 1])
def test_panoptic_results_are_the_official_ones(reference, threshold):
    meta, arrays = load(reference, "inference")
    limits = meta["thresholds"][threshold]
    model = MaskFormer(
        backbone=NoBackbone(),
        sem_seg_head=None,
        criterion=None,
        size_divisibility=meta["size_divisibility"],
        pixel_mean=[0.0],
        pixel_std=[1.0],
    )
    found = {}
    model.predict = lambda logits, masks, size: found.setdefault(size, (logits, masks))
    images = ImageList.from_tensors([torch.zeros(1, *s) for s in meta["image_sizes"]], meta["size_divisibility"])
    for i, size in enumerate(meta["output_sizes"]):
        model._predict_one(arrays["in/pred_logits"][i], arrays["in/pred_masks"][i], images, i, *size)
        logits, masks = found[tuple(size)]
        masks = torch.nn.functional.interpolate(masks[None], size, mode="bilinear", align_corners=False)[0]
        ids, segments = panoptic_segments(
            logits,
            masks,
            things=meta["thing_classes"],
            object_threshold=limits["object_mask"],
            overlap_threshold=limits["overlap"],
        )
        place = f"out/threshold{threshold}/image{i}/"
        assert torch.equal(ids, arrays[place + "panoptic_seg"])
        assert segments == arrays[place + "segments_info"]


def test_panoptic_segments_by_hand():
    """Two queries of one kind of stuff are one segment; a covered query is dropped; none are an empty map."""
    sure = 20.0
    logits = torch.full((4, 3), -sure)
    logits[0, 1] = logits[1, 1] = logits[2, 0] = logits[3, 2] = sure  # stuff, stuff, thing, no object
    masks = torch.full((4, 2, 4), -sure)
    masks[0, :, :2] = masks[1, :, 3:] = sure
    masks[2, 0, 0] = masks[3] = sure / 2  # the thing is weaker than the stuff below it
    ids, segments = panoptic_segments(logits, masks, things={0}, overlap_threshold=0.5)
    assert ids.tolist() == [[1, 1, 1, 1]] * 2  # where all are unlikely, the first query wins
    assert segments == [{"id": 1, "isthing": False, "category_id": 1}]
    ids, segments = panoptic_segments(logits[3:], masks[3:], things={0})
    assert not ids.any() and segments == []


def config(meta_arch="MaskFormer", **changes):
    cfg = get_cfg()
    add_fapn_config(cfg)
    options = {
        "MODEL.DEVICE": "cpu",
        "MODEL.META_ARCHITECTURE": meta_arch,
        "MODEL.BACKBONE.NAME": "build_resnet_backbone",
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
        "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL.SEM_SEG_HEAD.NAME": "MaskFormerHead",
        "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL.SEM_SEG_HEAD.CONVS_DIM": 64,
        "MODEL.SEM_SEG_HEAD.MASK_DIM": 16,
        "MODEL.SEM_SEG_HEAD.NORM": "GN",
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 5,
        "MODEL.ROI_HEADS.NUM_CLASSES": 3,
        "MODEL.MASK_FORMER.HIDDEN_DIM": 32,
        "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 6,
        "MODEL.MASK_FORMER.DIM_FEEDFORWARD": 32,
        "MODEL.MASK_FORMER.DEC_LAYERS": 2,
        "MODEL.MASK_FORMER.DROPOUT": 0.0,
    } | changes
    cfg.merge_from_list([part for pair in options.items() for part in pair])
    return cfg


def sample(height, width, classes):
    instances = Instances((height, width))
    instances.gt_classes = torch.tensor(classes, dtype=torch.long)
    instances.gt_masks = BitMasks(torch.rand(len(classes), height, width) > 0.5)
    return {"image": torch.randint(0, 255, (3, height, width), dtype=torch.uint8), "instances": instances}


NAMES = {f"loss_{kind}{layer}" for kind in ("ce", "mask", "dice") for layer in ("", "_0")}


@pytest.mark.parametrize("meta_arch", ["MaskFormer", "PanopticMaskFormer"])
@pytest.mark.parametrize("align", ["nearest", "deform"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_trains_and_predicts(meta_arch, align, dtype):
    model = build_model(config(meta_arch, **{"MODEL.NECK.ALIGN": align})).train()
    samples = [sample(70, 61, [0, 4, 2]), sample(45, 96, [])]
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        losses = model(samples)
        assert losses.keys() == NAMES and all(l.dtype == torch.float32 and l.isfinite() for l in losses.values())
        sum(losses.values()).backward()
        assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        with torch.no_grad():
            big, small = model.eval()([{**samples[0], "height": 35, "width": 30}, samples[1]])
    assert big["sem_seg"].shape == (5, 35, 30) and small["sem_seg"].shape == (5, 45, 96)
    assert big["sem_seg"].min() >= 0
    if meta_arch == "PanopticMaskFormer":
        ids, segments = big["panoptic_seg"]
        assert ids.shape == (35, 30) and set(ids.unique().tolist()) - {0} == {s["id"] for s in segments}
        assert all(s["category_id"] in (range(3) if s["isthing"] else range(1, 5)) for s in segments)


@pytest.mark.parametrize("samples", [[sample(33, 47, [])], [sample(40, 40, [1])]], ids=["nothing", "one image"])
def test_batch_of_one(samples):
    model = build_model(config()).train()
    losses = model(samples)
    sum(losses.values()).backward()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_instances_without_masks_are_no_regions():
    model = build_model(config()).train()
    with_field, without = sample(40, 40, []), sample(40, 40, [])
    without["instances"] = Instances((40, 40), gt_classes=torch.zeros(0, dtype=torch.long))
    without["image"] = with_field["image"]
    expected = model([with_field])
    assert all(torch.equal(value, expected[name]) for name, value in model([without]).items())


def test_only_the_last_layer_without_deep_supervision():
    model = build_model(config(**{"MODEL.MASK_FORMER.DEEP_SUPERVISION": False})).train()
    assert model([sample(40, 40, [1])]).keys() == {"loss_ce", "loss_mask", "loss_dice"}


def test_padding_of_the_batch_is_background():
    """An image's masks are padded with 0, as its neighbours' size asks for."""
    model = build_model(config())
    targets = model._targets(sample(20, 30, [1, 2]), (32, 64))
    assert targets.masks.shape == (2, 32, 64) and not targets.masks[:, 20:].any() and not targets.masks[:, :, 30:].any()


def test_mistakes_are_named():
    model = build_model(config()).train()
    with pytest.raises(ValueError, match=r"has no 'instances'; set INPUT.REGIONS"):
        model([{"image": torch.zeros(3, 32, 32)}])
    polygons = sample(32, 32, [1])
    square = [[torch.tensor([0.0, 0.0, 9.0, 0.0, 9.0, 9.0]).numpy()]]
    polygons["instances"].gt_masks = PolygonMasks(square)
    with pytest.raises(ValueError, match=r'set INPUT.MASK_FORMAT "bitmask"'):
        model([polygons])
    with pytest.raises(ValueError, match=r"needs MODEL.SEM_SEG_HEAD.NAME 'MaskFormerHead', got 'SemSegFPNHead'"):
        build_model(config(**{"MODEL.SEM_SEG_HEAD.NAME": "SemSegFPNHead"}))


def test_weights_do_not_hold_what_the_config_says():
    state = build_model(config()).state_dict()
    assert not [name for name in state if name.startswith(("criterion", "pixel_"))]
