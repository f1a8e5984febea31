"""AugFPN's region heads in whole detectors: the eight rows of Table 2, masks, empty images, checkpoints."""

import itertools

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.structures import Boxes, Instances

from fapn_d2.checkpoint.checkpointer import Checkpointer
from fapn_d2.heads.shared_mask_targets import SharedMaskTargets
from fapn_d2.heads.soft_roi_selection import SoftRoISelection

from ..toys.detectors import toy_detector, toy_inputs, train_step, without_gradient

OFF = {
    "CS": ["MODEL.CONSISTENT_SUPERVISION.MODE", "none"],
    "RFA": ["MODEL.NECK.CONTEXT", "none"],
    "SRS": ["MODEL.SOFT_ROI_SELECTION.FUSION", "none"],
}
MAIN = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}
LATERALS = ("lateral2", "lateral3", "lateral4", "lateral5")
MASKS = ["MODEL.MASK_ON", True]


def auxiliary(*kinds):
    return {f"loss_{kind}_{name}" for kind in kinds for name in LATERALS}


@pytest.mark.parametrize("on", [c for n in range(4) for c in itertools.combinations(OFF, n)], ids="+".join)
def test_every_row_of_table_2(on):
    model = toy_detector(*(option for name in OFF if name not in on for option in OFF[name]))
    assert (model.backbone.context is not None) == ("RFA" in on)
    assert isinstance(model.roi_heads.box_pooler, SoftRoISelection) == ("SRS" in on)
    assert (model.roi_heads.consistent_supervision is not None) == ("CS" in on)
    losses, _ = train_step(model, toy_inputs())
    assert set(losses) == MAIN | (auxiliary("cls", "box_reg") if "CS" in on else set())
    assert not without_gradient(model)


@pytest.mark.parametrize("masks", ["polygon", "bitmask"])
def test_masks_are_supervised_on_every_level(masks):
    model = toy_detector(*MASKS)
    assert isinstance(model.roi_heads.mask_pooler, SoftRoISelection)
    assert model.roi_heads.mask_pooler.fusion is not model.roi_heads.box_pooler.fusion
    losses, _ = train_step(model, toy_inputs(masks=masks))
    assert set(losses) == MAIN | {"loss_mask"} | auxiliary("cls", "box_reg", "mask")
    assert not without_gradient(model)


def test_masks_can_be_left_out():
    off = ["MODEL.SOFT_ROI_SELECTION.MASK", False, "MODEL.CONSISTENT_SUPERVISION.MASK", False]
    model = toy_detector(*MASKS, *off)
    assert not isinstance(model.roi_heads.mask_pooler, SoftRoISelection)
    losses, _ = train_step(model, toy_inputs(masks="polygon"))
    assert set(losses) == MAIN | {"loss_mask"} | auxiliary("cls", "box_reg")


@pytest.mark.parametrize("mode", ["all_levels", "single_level"])
def test_images_without_objects(mode):
    """Every parameter must get a gradient, or DistributedDataParallel waits for ever."""
    model = toy_detector(*MASKS, "MODEL.CONSISTENT_SUPERVISION.MODE", mode)
    train_step(model, toy_inputs(counts=(0,), masks="polygon"))
    assert not without_gradient(model)


def test_main_losses_and_logs_are_those_without_supervision():
    model = toy_detector(*MASKS)
    plain = toy_detector(*MASKS, *OFF["CS"])
    plain.load_state_dict(model.state_dict(), strict=True)  # the auxiliary weights are passed over
    inputs = toy_inputs(masks="polygon")
    losses, logged = train_step(model, inputs)
    expected, expected_logged = train_step(plain, inputs)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=0, atol=0)
    for name, value in expected_logged.items():
        assert logged[name] == value, name
    added = set(logged) - set(expected_logged)
    assert "consistent_supervision/lateral2/fast_rcnn/cls_accuracy" in added
    assert all(name.startswith("consistent_supervision/lateral") for name in added)


def test_inference_has_nothing_of_it():
    model = toy_detector(*MASKS).eval()
    plain = toy_detector(*MASKS, *OFF["CS"]).eval()
    plain.load_state_dict(model.state_dict(), strict=True)
    calls = []
    for module in model.roi_heads.consistent_supervision.modules():
        module.register_forward_hook(lambda *_: calls.append(1))
    inputs = toy_inputs()
    with torch.no_grad():
        for got, expected in zip(model(inputs), plain(inputs)):
            for field in ("scores", "pred_classes", "pred_masks"):
                assert torch.equal(got["instances"].get(field), expected["instances"].get(field))
            assert torch.equal(got["instances"].pred_boxes.tensor, expected["instances"].pred_boxes.tensor)
            assert len(got["instances"])
    assert not calls
    assert not [name for name in plain.state_dict() if "consistent_supervision" in name]
    with pytest.raises(RuntimeError, match="Unexpected key"):
        plain.load_state_dict({**model.state_dict(), "roi_heads.other": torch.zeros(1)}, strict=True)


@pytest.mark.parametrize("checkpointer", [DetectionCheckpointer, Checkpointer])
def test_checkpoints_with_auxiliary_heads_load_without_a_complaint(tmp_path, caplog, checkpointer):
    model, plain = toy_detector(), toy_detector(*OFF["CS"])
    torch.nn.init.ones_(model.roi_heads.box_pooler.fusion.gate.bias)
    torch.save({"model": model.state_dict()}, tmp_path / "trained.pth")
    checkpointer(plain).load(str(tmp_path / "trained.pth"))
    assert plain.roi_heads.box_pooler.fusion.gate.bias.eq(1).all()
    if checkpointer is DetectionCheckpointer:  # ours does not list what a network has no use for
        assert "consistent_supervision" not in caplog.text


def test_without_both_keys_these_are_the_standard_heads():
    off = OFF["CS"] + OFF["SRS"]
    model = toy_detector(*MASKS, *off)
    standard = toy_detector(*MASKS, *off, "MODEL.ROI_HEADS.NAME", "StandardROIHeads")
    standard.load_state_dict(model.state_dict(), strict=True)
    inputs = toy_inputs(masks="polygon")
    losses, _ = train_step(model, inputs)
    for name, value in train_step(standard, inputs)[0].items():
        assert torch.equal(losses[name], value), name


@pytest.mark.parametrize("align", ["deform", "flow"])
def test_combines_with_alignment(align):
    model = toy_detector("MODEL.NECK.ALIGN", align)
    train_step(model, toy_inputs(counts=(2,), size=(70, 101)))
    assert not without_gradient(model)


def test_autocast():
    model = toy_detector(*MASKS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses, _ = train_step(model, toy_inputs(counts=(2,), masks="bitmask"))
    assert all(value.isfinite() for value in losses.values())
    assert not without_gradient(model)


def test_unknown_fusion():
    with pytest.raises(ValueError, match=r"FUSION: unknown fusion 'mean'; allowed: none, sum, max, acf, asf"):
        toy_detector("MODEL.SOFT_ROI_SELECTION.FUSION", "mean")


def test_mask_targets_are_cropped_once():
    class Counting:
        calls = 0

        def __len__(self):
            return 1

        def crop_and_resize(self, boxes, mask_size):
            self.calls += 1
            return torch.zeros(len(boxes), mask_size, mask_size)

    image = Instances((8, 8), proposal_boxes=Boxes(torch.zeros(1, 4)), gt_masks=SharedMaskTargets(Counting()))
    for _ in range(5):
        image.gt_masks.crop_and_resize(image.proposal_boxes.tensor, 28)
    assert image.gt_masks.masks.calls == 1
    image.gt_masks.crop_and_resize(image.proposal_boxes.tensor, 14)
    image.gt_masks.crop_and_resize(torch.zeros(1, 4), 14)
    assert image.gt_masks.masks.calls == 3
