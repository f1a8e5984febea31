"""PanopticFCN as a whole: wiring, training and inference on images of any kind, all necks, errors."""

import pytest
import torch
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs

from fapn_d2.visualization.segments import from_prediction
from tests.toys.detectors import train_step, without_gradient
from tests.toys.panoptic_fcn import STUFF, panoptic_inputs, toy_network

LOSSES = ["loss_pos_th", "loss_pos_st", "loss_seg_th", "loss_seg_st"]
NECKS = {
    "fpn": ["MODEL.NECK.PRESET", "fpn"],
    "fapn": [],
    "augfpn": ["MODEL.NECK.PRESET", "augfpn"],
    "sfnet": ["MODEL.NECK.PRESET", "sfnet", "MODEL.FPN.NORM", "BN"],
}


@pytest.mark.parametrize("neck", NECKS)
def test_every_neck_trains_and_segments(neck):
    model, inputs = toy_network(*NECKS[neck]), panoptic_inputs(size=(61, 90))
    losses, _ = train_step(model, inputs)
    assert list(losses) == LOSSES and not without_gradient(model)
    model.eval()
    inputs[0]["height"], inputs[0]["width"] = 50, 70
    with torch.no_grad():
        first, second = model(inputs)
        (alone,) = model(inputs[:1])
    assert first["sem_seg"].shape == (STUFF, 50, 70) and second["sem_seg"].shape == (STUFF, 61, 90)
    assert first["instances"].image_size == (50, 70)
    assert first["panoptic_seg"][0].shape == (50, 70)
    torch.testing.assert_close(alone["sem_seg"], first["sem_seg"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("counts", "labels"), [((0,), True), ((2,), False), ((0, 0), False), ((3, 0), True)])
def test_images_in_which_something_is_missing(counts, labels):
    model, inputs = toy_network(), panoptic_inputs(counts, labels=labels)
    losses, _ = train_step(model, inputs)
    assert all(loss.isfinite() for loss in losses.values()) and not without_gradient(model)
    assert (losses["loss_seg_th"] == 0) == (sum(counts) == 0) and (losses["loss_seg_st"] == 0) == (not labels)
    for x in inputs:
        if not len(x["instances"]):
            del x["instances"]
    again, _ = train_step(model, inputs)
    assert {k: v.item() for k, v in again.items()} == {k: v.item() for k, v in losses.items()}


def test_nothing_is_found():
    options = ["MODEL.PANOPTIC_FCN.THING_THRESH_TEST", 1.0, "MODEL.PANOPTIC_FCN.STUFF_THRESH_TEST", 1.0]
    with torch.no_grad():
        (output,) = toy_network(*options).eval()(panoptic_inputs((1,)))
    assert not len(output["instances"]) and not output["sem_seg"].any()
    panoptic, info = output["panoptic_seg"]
    assert not panoptic.any() and info == []


def test_small_images():
    """32 x 32 pixels: P5, P6 and P7 have one cell."""
    model = toy_network()
    losses, _ = train_step(model, panoptic_inputs((1,), size=(32, 32)))
    assert all(loss.isfinite() for loss in losses.values())
    with torch.no_grad():
        (output,) = model.eval()(panoptic_inputs((1,), size=(20, 31)))
    assert output["sem_seg"].shape == (STUFF, 20, 31)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype):
    model, inputs = toy_network(), panoptic_inputs()
    exact, _ = train_step(model, inputs)
    with torch.autocast("cpu", dtype=dtype):
        losses, _ = train_step(model, inputs)
        with torch.no_grad():
            outputs = model.eval()(inputs)
    assert all(loss.dtype == torch.float32 for loss in losses.values()) and not without_gradient(model)
    assert {k: v.item() for k, v in losses.items()} == pytest.approx({k: v.item() for k, v in exact.items()}, rel=0.05)
    assert outputs[0]["sem_seg"].dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_cuda(dtype):
    model, inputs = toy_network("MODEL.DEVICE", "cuda"), panoptic_inputs()
    with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
        losses, _ = train_step(model, inputs)
        with torch.no_grad():
            outputs = model.eval()(inputs)
    expected, _ = train_step(toy_network(), inputs)
    assert {k: v.item() for k, v in losses.items()} == pytest.approx(
        {k: v.item() for k, v in expected.items()}, rel=0.05
    )
    assert outputs[0]["panoptic_seg"][0].is_cuda


def test_inputs_stay_as_they_are():
    inputs = panoptic_inputs(labels=False)
    train_step(toy_network(), inputs)
    assert all((x["sem_seg"] == 255).all() for x in inputs)


def test_the_ignore_value_may_be_the_number_of_a_class():
    inputs = panoptic_inputs()
    ignored = toy_network("MODEL.SEM_SEG_HEAD.IGNORE_VALUE", 2)
    losses, _ = train_step(ignored, inputs)
    for x in inputs:
        x["sem_seg"][x["sem_seg"] == 2] = 255
    expected, _ = train_step(toy_network(), inputs)
    assert {k: v.item() for k, v in losses.items()} == {k: v.item() for k, v in expected.items()}


def test_panoptic_result_is_detectron2s_of_the_other_two():
    model = toy_network("MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT", 100).eval()
    with torch.no_grad():
        (output,) = model(panoptic_inputs((2,)))
    combined = combine_semantic_and_instance_outputs(output["instances"], output["sem_seg"].argmax(0), 0.5, 100, 0.5)
    assert torch.equal(output["panoptic_seg"][0], combined[0]) and output["panoptic_seg"][1] == combined[1]
    plain = toy_network("MODEL.PANOPTIC_FPN.COMBINE.ENABLED", False).eval()
    with torch.no_grad():
        assert set(plain(panoptic_inputs((2,)))[0]) == {"sem_seg", "instances"}


ERRORS = [
    (
        ["MODEL.PANOPTIC_FCN.IN_FEATURES", ["p3", "p9"]],
        r"PANOPTIC_FCN\.IN_FEATURES = \['p3', 'p9'\]: the backbone gives",
    ),
    (["MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res2"]], r"SEM_SEG_HEAD\.IN_FEATURES = \['res2'\]: the backbone"),
    (["MODEL.PANOPTIC_FCN.OBJECT_SCALES", [[1, 64]]], r"OBJECT_SCALES = \[\[1, 64\]\] needs one entry for each of"),
    (["MODEL.PANOPTIC_FCN.SMOOTHING_TEST", [3, 3, 3, 4, 5]], r"\[3, 3, 3, 4, 5\]: sides of squares must be odd"),
    (["MODEL.SEM_SEG_HEAD.COMMON_STRIDE", 8], r"COMMON_STRIDE = 8: PanopticFCN needs 4"),
    (["MODEL.MASK_ON", False], "MODEL.MASK_ON is False, but PanopticFCN learns from masks"),
    (["MODEL.PANOPTIC_FCN.CENTER", "middle"], "unknown 'middle'; allowed: mass, box"),
    (["MODEL.NECK.DEFORM.BACKEND", "tritn"], "MODEL.NECK.DEFORM.BACKEND: unknown backend 'tritn'"),
]


@pytest.mark.parametrize(("options", "message"), ERRORS)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        toy_network(*options)


def test_training_needs_labels():
    inputs = panoptic_inputs()
    del inputs[1]["sem_seg"]
    with pytest.raises(ValueError, match="an image has no 'sem_seg': train it on a panoptic data set"):
        train_step(toy_network(), inputs)


def test_predictions_are_drawn():
    model = toy_network("MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT", 1).eval()
    with torch.no_grad():
        model.position_head.region.bias[2] = 4  # one class of stuff everywhere
        (output,) = model(panoptic_inputs((1,)))
    drawn = from_prediction(output, "shapes_train_panoptic_separated")
    assert [segment.name for segment in drawn.segments.values()][-1:] == ["grass"]
    assert (drawn.labels > 0).any() and drawn.labels.shape == (64, 96)
