"""FCOS from YAML keys is Detectron2's FCOS built in Python."""

import pytest
import torch
from detectron2.modeling.meta_arch import fcos

from ..toys.detectors import CLASSES, toy_detector, toy_detector_cfg, toy_inputs, train_step, without_gradient


def built_in_python(**options):
    ours = toy_detector(one_stage="FCOS")
    shapes = list(ours.backbone.output_shape().values())
    head = fcos.FCOSHead(input_shape=shapes, num_classes=CLASSES, conv_dims=[32], norm="GN")
    cfg = toy_detector_cfg(one_stage="FCOS")
    return fcos.FCOS(
        backbone=ours.backbone,
        head=head,
        num_classes=CLASSES,
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
        **options,
    )


@pytest.mark.parametrize(("radius", "theirs"), [(1.5, {}), (0.0, {"center_sampling_radius": 1e9})])
def test_equals_detectron2s(radius, theirs):
    ours = toy_detector("MODEL.FCOS.CENTER_SAMPLING_RADIUS", radius, one_stage="FCOS")
    expected = built_in_python(**theirs)
    expected.load_state_dict(ours.state_dict(), strict=True)
    inputs = toy_inputs()
    losses, logged = train_step(ours, inputs)
    for name, value in train_step(expected, inputs)[0].items():
        assert torch.equal(losses[name], value), name
    assert not without_gradient(ours)
    assert logged["num_pos_anchors"] > 0
    ours.eval()
    expected.eval()
    ours.test_score_thresh = expected.test_score_thresh = 0.0
    with torch.no_grad():
        for got, wanted in zip(ours(inputs), expected(inputs)):
            assert torch.equal(got["instances"].pred_boxes.tensor, wanted["instances"].pred_boxes.tensor)
            assert len(got["instances"]) > 10


def test_defaults_are_detectron2s():
    ours, theirs = toy_detector(one_stage="FCOS"), built_in_python()
    for name in (
        "center_sampling_radius",
        "focal_loss_alpha",
        "focal_loss_gamma",
        "test_topk_candidates",
        "max_detections_per_image",
    ):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert (ours.test_score_thresh, ours.test_nms_thresh) == (0.2, 0.6)  # what its Python config sets


def test_autocast():
    """Detectron2's own stops in its GIoU loss, which mixes half and single precision."""
    model = toy_detector(one_stage="FCOS")
    expected, _ = train_step(model, toy_inputs())
    del model.loss_normalizer  # the running mean of positive points
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses, _ = train_step(model, toy_inputs())
        model.eval()(toy_inputs())
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=0.03, atol=0)
    assert not without_gradient(model)


ERRORS = [
    (["MODEL.FCOS.IN_FEATURES", ["p2", "p3"]], r"MODEL\.FCOS\.IN_FEATURES = \['p2', 'p3'\]: the backbone gives \['p3'"),
    (["MODEL.FCOS.CENTER_SAMPLING_RADIUS", -1.0], r"MODEL\.FCOS\.CENTER_SAMPLING_RADIUS = -1\.0 is below 0"),
]


@pytest.mark.parametrize(("options", "message"), ERRORS)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        toy_detector(*options, one_stage="FCOS")
