"""One-stage detectors with Consistent Supervision: losses, logs, empty images, inference, checkpoints."""

import pytest
import torch
from detectron2.utils.events import EventStorage

from ..toys.detectors import toy_detector, toy_inputs, train_step, without_gradient

PLAIN = {"ConsistentRetinaNet": "RetinaNet", "ConsistentFCOS": "FCOS"}
AUXILIARY = {f"loss_{kind}_lateral{i}" for kind in ("cls", "box_reg") for i in (3, 4, 5)}
MODE = "MODEL.CONSISTENT_SUPERVISION.MODE"


@pytest.mark.parametrize("name", PLAIN)
def test_main_losses_and_logs_are_the_plain_detectors(name):
    model, plain = toy_detector(one_stage=name), toy_detector(one_stage=PLAIN[name])
    weights = {key: value for key, value in model.state_dict().items() if "consistent_supervision" not in key}
    plain.load_state_dict(weights, strict=True)
    losses, logged = train_step(model, toy_inputs())
    expected, expected_logged = train_step(plain, toy_inputs())
    assert set(losses) == set(expected) | AUXILIARY
    for key, value in expected.items():
        assert torch.equal(losses[key], value), key
    for key, value in expected_logged.items():
        assert logged[key] == value, key
    assert not without_gradient(model)
    assert logged["consistent_supervision/roi_head/num_fg_samples"] > 0
    assert "consistent_supervision/lateral5/fast_rcnn/cls_accuracy" in logged


@pytest.mark.parametrize("name", PLAIN)
def test_auxiliary_gradients_reach_the_laterals_but_not_the_dense_head(name):
    model = toy_detector(one_stage=name)
    with EventStorage():
        losses = model(toy_inputs())
    sum(losses[key] for key in AUXILIARY).backward()
    assert all(p.grad is None for p in model.head.parameters())
    assert model.backbone.fpn_lateral3.weight.grad.any() and model.backbone.fpn_lateral5.weight.grad.any()
    assert model.backbone.fpn_output3.weight.grad is None and model.backbone.context.reduce[0].weight.grad is None


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("mode", ["all_levels", "single_level"])
def test_images_without_objects(name, mode):
    model = toy_detector(MODE, mode, one_stage=name)
    losses, _ = train_step(model, toy_inputs(counts=(0, 0)))
    assert all(value.isfinite() for value in losses.values())
    assert not without_gradient(model)


@pytest.mark.parametrize("name", PLAIN)
def test_no_detection_and_no_object_at_all(name):
    model = toy_detector("MODEL.CONSISTENT_SUPERVISION.SCORE_THRESH", 1.0, one_stage=name)
    losses, logged = train_step(model, toy_inputs(counts=(0, 0)))
    assert all(losses[key] == 0 for key in AUXILIARY)
    assert logged["consistent_supervision/roi_head/num_bg_samples"] == 0
    assert not without_gradient(model)


@pytest.mark.parametrize("name", PLAIN)
def test_inference_is_the_plain_detectors(name):
    model, none = toy_detector(one_stage=name), toy_detector(MODE, "none", one_stage=name)
    none.load_state_dict(model.state_dict(), strict=True)  # the auxiliary weights are passed over
    plain = toy_detector(one_stage=PLAIN[name])
    plain.load_state_dict(none.state_dict(), strict=True)
    inputs = toy_inputs()
    for detector in (model, none, plain):
        detector.eval()
        detector.test_score_thresh = 0.0
    with torch.no_grad():
        for results in zip(model(inputs), none(inputs), plain(inputs)):
            boxes = [x["instances"].pred_boxes.tensor for x in results]
            assert len(boxes[0]) and torch.equal(boxes[0], boxes[2]) and torch.equal(boxes[1], boxes[2])


def test_without_supervision_training_is_the_plain_detectors():
    none, plain = toy_detector(MODE, "none", one_stage="ConsistentFCOS"), toy_detector(one_stage="FCOS")
    plain.load_state_dict(none.state_dict(), strict=True)
    losses, _ = train_step(none, toy_inputs())
    expected, _ = train_step(plain, toy_inputs())
    assert set(losses) == set(expected) and all(torch.equal(losses[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", PLAIN)
def test_autocast(name):
    model = toy_detector(one_stage=name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses, _ = train_step(model, toy_inputs(counts=(2, 1)))
    assert all(value.isfinite() for value in losses.values())
    assert not without_gradient(model)
