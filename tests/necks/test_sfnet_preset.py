"""The SFNet preset: in configs that know nothing of it, at single levels, with contexts, in detectors, at odd sizes."""

from pathlib import Path

import detectron2
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_backbone, build_model
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage

from fapn_d2 import add_fapn_config
from fapn_d2.layers.flow_align import FlowAlign

from ..toys.pyramids import toy_maps, toy_pyramid

ZOO = Path(detectron2.__file__).parent / "model_zoo" / "configs"
SFNET = dict(name="build_resnet_sfnet_backbone", norm="BN")


def test_parts_of_the_preset():
    pyramid = toy_pyramid(**SFNET)
    assert not hasattr(pyramid, "fpn_lateral5")  # pyramid pooling is the coarsest level
    assert isinstance(pyramid.fpn_output5, torch.nn.Identity)
    for i in (2, 3, 4):
        lateral, output = getattr(pyramid, f"fpn_lateral{i}"), getattr(pyramid, f"fpn_output{i}")
        assert lateral.bias is not None and output.bias is None and output.kernel_size == (3, 3)
        assert lateral.norm is not None and lateral.activation is torch.nn.functional.relu
    maps = toy_maps()
    outputs = pyramid.eval()(maps)
    torch.testing.assert_close(outputs["p5"], pyramid.context(maps["res5"]))
    merged = pyramid.fpn_lateral4(maps["res4"])
    merged = merged + pyramid.fpn_align4(merged, outputs["p5"])
    torch.testing.assert_close(outputs["p4"], pyramid.fpn_output4(merged))


def test_alignment_and_sum_are_one_pass_unless_heard(monkeypatch):
    pyramid, maps = toy_pyramid(**SFNET).eval(), toy_maps()
    calls = []
    real = FlowAlign.align_and_add
    monkeypatch.setattr(FlowAlign, "align_and_add", lambda *args: calls.append(args) or real(*args))
    expected = pyramid(maps)
    assert len(calls) == 3
    heard = []
    pyramid.fpn_align3.register_forward_hook(lambda module, inputs, output: heard.append(output))
    pyramid.fpn_fuse4.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[1]))
    again = pyramid(maps)
    assert len(calls) == 4 and [t.shape[-2:] for t in heard] == [maps["res4"].shape[-2:], maps["res3"].shape[-2:]]
    assert all(torch.equal(again[name], value) for name, value in expected.items())
    averaged = toy_pyramid(**SFNET, FUSE="avg").eval()
    averaged(maps)
    assert len(calls) == 4


def test_counts_of_the_official_decoder():
    """facts of the official code: pyramid pooling, laterals, outputs and alignments at 128 channels on ResNet-18's."""
    cfg = get_cfg()
    add_fapn_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_resnet_sfnet_backbone"
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.FPN.NORM = 128, "BN"
    with torch.device("meta"):
        pyramid = build_backbone(cfg)
    counts = {"context": 0, "fpn_lateral": 0, "fpn_output": 0, "fpn_align": 0}
    for name, parameter in pyramid.named_parameters():
        for part in counts:
            counts[part] += parameter.numel() if name.startswith(part) else 0
    assert counts == {"context": 394_496, "fpn_lateral": 58_496, "fpn_output": 443_136, "fpn_align": 56_064}


def test_without_flow_it_is_the_bilinear_baseline():
    ours = toy_pyramid(**SFNET).eval()
    baseline = toy_pyramid(**SFNET, ALIGN="bilinear_corners").eval()
    state = {name: value for name, value in ours.state_dict().items() if "fpn_align" not in name}
    baseline.load_state_dict(state, strict=True)
    for i in (2, 3, 4):
        torch.nn.init.zeros_(getattr(ours, f"fpn_align{i}").flow.weight)
    maps = toy_maps(size=(61, 100))
    got, expected = ours(maps), baseline(maps)
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("aligned", [(2,), (3,), (4,), (3, 4)])
def test_alignment_at_single_levels(aligned):
    """Table 2: F_l of the paper is the step from level l to l - 1."""
    pyramid = toy_pyramid(**SFNET, ALIGN=["flow" if i in aligned else "bilinear_corners" for i in (2, 3, 4)])
    flows = [i for i in (2, 3, 4) if isinstance(getattr(pyramid, f"fpn_align{i}"), FlowAlign)]
    assert flows == list(aligned)
    assert all(value.isfinite().all() for value in pyramid(toy_maps()).values())


def test_numbers_of_the_flow_reach_it():
    align = toy_pyramid(**SFNET, FLOW=CfgNode({"UNIT": 1.0, "ALIGN_CORNERS": False})).fpn_align3
    assert align.unit == 1.0 and align.align_corners is False


@pytest.mark.parametrize(
    ("config", "losses"),
    [
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", {"loss_cls", "loss_mask", "loss_rpn_cls"}),
        ("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml", {"loss_sem_seg", "loss_mask", "loss_rpn_loc"}),
    ],
)
def test_one_changed_line_in_detectors(config, losses):
    """Detectron2's own files, made narrow, with another backbone's name: trained and run."""
    cfg = get_cfg()
    cfg.merge_from_file(str(ZOO / config))
    cfg.MODEL.BACKBONE.NAME = "build_resnet_sfnet_backbone"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8, 16
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 8
    cfg.MODEL.FPN.OUT_CHANNELS = cfg.MODEL.ROI_BOX_HEAD.FC_DIM = cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 32
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 8
    model = build_model(cfg).train()
    size = (64, 96)
    boxes = Boxes(torch.tensor([[10.0, 10.0, 60.0, 50.0]]))
    masks = PolygonMasks([[[10.0, 10, 60, 10, 60, 50, 10, 50]]])
    instances = Instances(size, gt_boxes=boxes, gt_classes=torch.tensor([3]), gt_masks=masks)
    sample = {"image": torch.randint(0, 255, (3, *size)), "instances": instances, "sem_seg": torch.ones(size).long()}
    with EventStorage():
        got = model([sample])
    assert losses <= set(got)
    sum(got.values()).backward()
    neck = {name: p for name, p in model.backbone.named_parameters() if not name.startswith("bottom_up.")}
    assert any("fpn_align" in name for name in neck)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in neck.values())
    with torch.no_grad():
        (output,) = model.eval()([sample])
    assert output["instances"].image_size == size
