"""SFNet's configs and real-time FaPN's against the papers' recipes."""

from pathlib import Path

import pytest
import torch
import yaml
from detectron2.modeling import build_model

from fapn_d2.checkpoint.checkpointer import Checkpointer
from fapn_d2.config.loading import load_config
from fapn_d2.reproduction.ledger import find_row, load_ledgers

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
CITYSCAPES = sorted(path.name for path in (CONFIGS / "sfnet").glob("semantic_*_cityscapes.yaml"))


def recipe(reference, name):
    return yaml.safe_load((reference / "papers" / "recipes.yaml").read_text())[name]


@pytest.mark.parametrize("name", CITYSCAPES)
def test_sfnet_on_cityscapes(reference, name):
    printed = recipe(reference, "sfnet.cityscapes")
    cfg = load_config(str(CONFIGS / "sfnet" / name))
    solver, crop = cfg.SOLVER, cfg.INPUT.SCALE_CROP
    assert (printed["batch"], printed["iters"]) == (solver.IMS_PER_BATCH, solver.MAX_ITER)
    assert (
        printed["lr"],
        printed["momentum"],
        printed["weight_decay"],
    ) == (solver.BASE_LR, solver.MOMENTUM, solver.WEIGHT_DECAY)
    assert solver.WEIGHT_DECAY_NORM == solver.WEIGHT_DECAY and printed["optimizer"] == solver.OPTIMIZER
    assert "^0.9" in printed["lr_policy"] and solver.LR_SCHEDULER_NAME == "WarmupPolyLR" and solver.POLY_LR_POWER == 0.9
    assert solver.WARMUP_ITERS == 0 and not solver.CLIP_GRADIENTS.ENABLED
    assert any("[0.75, 2.0]" in step for step in printed["augmentation"])
    assert any("1024x1024" in step for step in printed["augmentation"])
    assert crop.ENABLED and (list(crop.SCALES), crop.SAMPLING, list(crop.SIZE)) == ([0.75, 2.0], "range", [1024, 1024])
    assert cfg.INPUT.RANDOM_FLIP == "horizontal" and not cfg.INPUT.COLOR_AUG_SSD
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == printed["classes"] == 19
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (1024, 2048)  # whole images
    assert cfg.DATASETS.TRAIN == ("cityscapes_fine_sem_seg_train",)
    assert cfg.DATASETS.TEST == ("cityscapes_fine_sem_seg_val",)


@pytest.mark.parametrize("name", ["R_18", "R_50", "R_101", "DF1", "DF2", "ShuffleNetV2"])
def test_sfnets_losses(name):
    """Hard pixels, and a classifier on each map that the decoder merges; the levels are all of the pyramid's."""
    cfg = load_config(str(CONFIGS / "sfnet" / f"semantic_{name}_SFNet_cityscapes.yaml"))
    head = cfg.MODEL.SEM_SEG_HEAD
    assert (head.LOSS, head.OHEM.THRESHOLD, head.OHEM.KEEP_FRACTION, head.OHEM.MIN_KEPT) == ("ohem", 0.7, 0.1, 0)
    assert head.CONVS_DIM == cfg.MODEL.FPN.OUT_CHANNELS == (256 if name in ("R_50", "R_101") else 128)
    assert len(head.IN_FEATURES) == len(cfg.MODEL.FPN.IN_FEATURES)
    merged = [f"merged{level[1:]}" for level in head.IN_FEATURES[:-1]]
    assert merged[::-1] == head.DEEP_SUPERVISION.FEATURES and not head.DEEP_SUPERVISION.WEIGHTS
    assert head.IGNORE_VALUE == 255 and head.ALIGN_CORNERS and cfg.MODEL.NECK.FLOW.ALIGN_CORNERS
    assert cfg.MODEL.BACKBONE.FREEZE_AT == 0
    public = {"R_50": "timm://resnet50s.gluon_in1k", "R_101": "timm://resnet101s.gluon_in1k"}
    public["ShuffleNetV2"] = "torchvision://shufflenet_v2_x1_5"
    assert public.get(name, "") == cfg.MODEL.WEIGHTS


def test_mapillary_is_pretrained_as_in_the_code_of_2020():
    """65 classes, batches of 32, 300 times 18,000 images, rate 0.01, crops of 1024, half of them drawn by classes."""
    cfg = load_config(str(CONFIGS / "sfnet" / "semantic_R_18_SFNet_mapillary.yaml"))
    solver, head = cfg.SOLVER, cfg.MODEL.SEM_SEG_HEAD
    assert (solver.IMS_PER_BATCH, solver.MAX_ITER * solver.IMS_PER_BATCH, solver.BASE_LR) == (32, 300 * 18_000, 0.01)
    assert head.NUM_CLASSES == head.IGNORE_VALUE == 65 and list(cfg.INPUT.SCALE_CROP.SIZE) == [1024, 1024]
    assert cfg.DATALOADER.SAMPLER_TRAIN == "ClassUniformSampler" and cfg.DATALOADER.CLASS_UNIFORM.FRACTION == 0.5


def test_weights_from_mapillary_fill_all_but_the_classifiers(tmp_path):
    row = find_row(load_ledgers(), "sfnet.t6.sfnet_r18_mapillary")
    before, after = (build_model(network.load(["MODEL.DEVICE", "cpu"])) for network in (row.pretraining, row.network))
    torch.save({"model": before.state_dict()}, tmp_path / "pretrained.pth")
    fresh = {name: value.clone() for name, value in after.state_dict().items()}
    with pytest.raises(ValueError, match=r"8 weights of .*To tune it on other classes.*MODEL\.WEIGHTS_SKIP") as refused:
        Checkpointer(after).initialize(str(tmp_path / "pretrained.pth"))
    skip = row.network.load().MODEL.WEIGHTS_SKIP
    assert all(f"'{part}'" in str(refused.value) for part in skip)  # the message names what the ledger has
    after.load_state_dict(fresh)
    Checkpointer(after).initialize(str(tmp_path / "pretrained.pth"), skip=skip)
    given, classifiers = before.state_dict(), 0
    for name, value in after.state_dict().items():
        if any(name.startswith(f"{part}.") for part in skip):
            assert (value == fresh[name]).all() and len(value) == 19
            classifiers += 1
        else:
            assert (value == given[name]).all(), name
    assert classifiers == 8


@pytest.mark.parametrize("name", ["R_18", "DF2"])
def test_sfnet_on_camvid(reference, name):
    printed = recipe(reference, "sfnet.camvid")
    assert printed["image_size"].startswith("480x360")
    cfg = load_config(str(CONFIGS / "sfnet" / f"semantic_{name}_SFNet_camvid.yaml"))
    assert cfg.DATASETS.TRAIN == ("camvid_sem_seg_trainval",) and cfg.DATASETS.TEST == ("camvid_sem_seg_test",)
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE == 11
    assert cfg.INPUT.SCALE_CROP.ENABLED and list(cfg.INPUT.SCALE_CROP.SIZE) == [360, 480]
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (360, 480)


@pytest.mark.parametrize("name", ["R_18_FaPN", "R_34_FaPN", "R_18_FPN"])
def test_realtime_fapn(name):
    """Appendix B: SGD of momentum 0.9, decay 5e-4, 16 crops of 768x1536, six scales, 40k iterations, poly 0.9."""
    cfg = load_config(str(CONFIGS / "fapn" / f"realtime_{name}_cityscapes.yaml"))
    solver, crop = cfg.SOLVER, cfg.INPUT.SCALE_CROP
    assert (solver.BASE_LR, solver.MOMENTUM, solver.WEIGHT_DECAY, solver.IMS_PER_BATCH) == (0.01, 0.9, 5e-4, 16)
    assert (solver.MAX_ITER, solver.LR_SCHEDULER_NAME, solver.POLY_LR_POWER) == (40_000, "WarmupPolyLR", 0.9)
    assert (list(crop.SCALES), crop.SAMPLING) == ([0.75, 1.0, 1.25, 1.5, 1.75, 2.0], "choice")
    assert list(crop.SIZE) == [768, 1536] and cfg.INPUT.RANDOM_FLIP == "horizontal"
    assert cfg.MODEL.FPN.IN_FEATURES == ["res3", "res4", "res5"] and cfg.MODEL.FPN.OUT_CHANNELS == 128
    assert cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES == ["p3"] and cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM == 64
    assert cfg.MODEL.NECK.DEFORM.UPSAMPLE == "nearest" and f"torchvision://resnet{name[2:4]}" == cfg.MODEL.WEIGHTS
