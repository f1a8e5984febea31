"""Detectron2's test-time augmentation with this project's detectors, trainer and files."""

import json

import pytest
import torch

from fapn_d2.config.loading import load_config
from fapn_d2.data import generate_shapes
from fapn_d2.engine import Trainer, prepare_config
from fapn_d2.inference.box_augmentation import augmented, check_augmentation

from ..engine.test_setup import arguments
from ..toys.detectors import toy_detector, toy_detector_cfg, toy_inputs

SMALL = ("TEST.AUG.MIN_SIZES", (64,), "TEST.AUG.MAX_SIZE", 200, "TEST.AUG.FLIP", False)


def detections(model, inputs):
    with torch.no_grad():
        return [output["instances"] for output in model(inputs)]


@pytest.mark.parametrize("masks", [False, True])
def test_one_size_without_flip_is_the_plain_detector(masks):
    cfg = toy_detector_cfg("MODEL.MASK_ON", masks, "TEST.AUG.ENABLED", True, *SMALL)
    model = toy_detector("MODEL.MASK_ON", masks).eval()
    inputs = toy_inputs((3,))
    for plain, merged in zip(detections(model, inputs), detections(augmented(cfg, model), inputs)):
        assert len(plain) == len(merged) > 20
        torch.testing.assert_close(merged.pred_boxes.tensor, plain.pred_boxes.tensor, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(merged.scores, plain.scores)
        assert not masks or (merged.pred_masks == plain.pred_masks).float().mean() > 0.999
    cfg.TEST.AUG.FLIP = True
    (mirrored,), (plain,) = detections(augmented(cfg, model), inputs), detections(model, inputs)
    assert not torch.equal(mirrored.scores, plain.scores)


def test_evaluation_mode_comes_and_goes_with_the_wrapper():
    model = toy_detector().train()
    wrapped = augmented(toy_detector_cfg("TEST.AUG.ENABLED", True), model)
    assert wrapped.training and not wrapped.eval().model.training and wrapped.train(True).model.training


def test_scored_beside_the_plain_detector(tmp_path, monkeypatch):
    generate_shapes(tmp_path / "shapes", splits={"train": 2, "val": 2}, size=(64, 96))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    cfg = toy_detector_cfg("DATASETS.TRAIN", ("shapes_train",), "DATASETS.TEST", ("shapes_val",), *SMALL)
    cfg.merge_from_list(["TEST.AUG.ENABLED", True, "MODEL.ROI_HEADS.NUM_CLASSES", 6, "MODEL.WEIGHTS", ""])
    cfg.merge_from_list(["INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MIN_SIZE_TEST", 64, "SOLVER.MAX_ITER", 1])
    cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", 2, "DATALOADER.NUM_WORKERS", 0, "OUTPUT_DIR", str(tmp_path / "out")])
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    plain, merged = (
        json.loads((tmp_path / "out" / name).read_text()) for name in ("results.json", "results-augmented.json")
    )
    assert set(plain) == {"bbox"} and set(merged) == {"bbox_TTA"}
    assert merged["bbox_TTA"]["AP"] == pytest.approx(plain["bbox"]["AP"], nan_ok=True, abs=0.01)
    assert list((tmp_path / "out" / "inference_TTA" / "shapes_val").iterdir())


@pytest.mark.parametrize("name", ["SemanticSegmentor", "WholeImageSegmentor", "PanopticFPN", "RetinaNet"])
def test_networks_that_it_cannot_be_used_on(name):
    cfg = load_config("", ["MODEL.META_ARCHITECTURE", name])
    check_augmentation(cfg)
    with pytest.raises(ValueError, match=rf"boxes and masks of a GeneralizedRCNN, MODEL.META_ARCHITECTURE is {name}"):
        prepare_config(arguments("MODEL.META_ARCHITECTURE", name, "TEST.AUG.ENABLED", "True"))


def test_keypoints_are_refused():
    cfg = load_config("", ["TEST.AUG.ENABLED", "True", "MODEL.KEYPOINT_ON", "True"])
    with pytest.raises(ValueError, match=r"TEST.AUG.ENABLED does not work with MODEL.KEYPOINT_ON"):
        check_augmentation(cfg)
