"""Consistent Supervision: the official losses, gradients against Equation 1 written plainly, both modes, errors."""

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn import functional as F

from fapn_d2.checkpoint.keys.augfpn import augfpn_state_to_official, augfpn_state_to_ours
from fapn_d2.heads.consistent_supervision import ConsistentSupervision, build_consistent_supervision

from ..toys.detectors import toy_detector, toy_detector_cfg

POOLER = dict(output_size=7, sampling_ratio=2, pooler_type="ROIAlign")
STRIDES = (4, 8, 16, 32)
TRANSFORM = Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0))


def branch(channels=8, classes=5, width=32, all_levels=True, weight=0.25):
    laterals = {f"lateral{i + 2}": ShapeSpec(channels=channels, stride=s) for i, s in enumerate(STRIDES)}
    head = FastRCNNConvFCHead(ShapeSpec(channels=channels, height=7, width=7), conv_dims=[], fc_dims=[width, width])
    predictor = FastRCNNOutputLayers(
        head.output_shape, box2box_transform=TRANSFORM, num_classes=classes, smooth_l1_beta=1.0
    )
    return ConsistentSupervision(
        laterals, all_levels=all_levels, weight=weight, box_pooler=POOLER, box_head=head, box_predictor=predictor
    )


class Given(nn.Module):
    """Stands for a pooler whose features are known."""

    def __init__(self, features):
        super().__init__()
        self.features = features

    def forward(self, maps, boxes):
        return self.features


@pytest.fixture
def arrays(reference):
    with np.load(reference / "augfpn" / "cs_boxhead_4levels.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def official_case(arrays):
    """Our branch with the official weights and pooled features, and proposals whose targets are the official ones."""
    module = branch(weight=float(arrays["in/alpha"]))
    official = {f"auxiliary_bbox_head.{key[3:]}": value for key, value in arrays.items() if key.startswith("sd/")}
    ours = augfpn_state_to_ours(official)
    module.load_state_dict({key.removeprefix("consistent_supervision."): v for key, v in ours.items()}, strict=True)
    module.double()
    features = arrays["in/roi_feats_interleaved"].double()  # region after region, its four levels together
    module.box_poolers = nn.ModuleList(Given(features[level::4]) for level in range(4))
    labels = arrays["in/labels"]  # 0 is the background
    boxes = torch.tensor([[10.0, 20.0, 55.0, 90.0]], dtype=torch.float64).expand(10, 4)
    # Detectron2's apply_deltas, which works in float32, in float64.
    shift, scale = (arrays["in/bbox_targets_n4"].double() / torch.tensor([10, 10, 5, 5])).split(2, dim=1)
    center, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    center, size = center + shift * size, size * scale.exp()
    targets = torch.cat([center - size / 2, center + size / 2], dim=1)
    proposals = Instances((100, 100), proposal_boxes=Boxes(boxes), gt_boxes=Boxes(targets), gt_classes=(labels - 1) % 6)
    proposals.proposal_boxes.tensor, proposals.gt_boxes.tensor = boxes, targets  # Boxes rounds to float32
    return module, features, [proposals]


def test_official_losses(arrays):
    module, _, proposals = official_case(arrays)
    with EventStorage():
        losses = module.box_losses({f"lateral{i}": None for i in (2, 3, 4, 5)}, proposals)
    assert set(losses) == {f"loss_{kind}_lateral{i}" for kind in ("cls", "box_reg") for i in (2, 3, 4, 5)}
    for level in range(4):
        for ours, official in (("cls", "cls"), ("box_reg", "reg")):
            got, expected = losses[f"loss_{ours}_lateral{level + 2}"], arrays[f"out64/loss_{official}_level{level}"][0]
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)


def test_gradients_are_those_of_equation_1(arrays):
    """The sum over levels of lambda (CE + [t > 0] smooth L1 / R), with the official layout of classes."""
    module, features, proposals = official_case(arrays)
    with EventStorage():
        losses = module.box_losses({f"lateral{i}": None for i in (2, 3, 4, 5)}, proposals)
    sum(losses.values()).backward()
    weights = {key[3:]: value.double().requires_grad_() for key, value in arrays.items() if key.startswith("sd/")}
    hidden = features.flatten(1)
    for i in range(2):
        hidden = F.relu(hidden @ weights[f"shared_fcs.{i}.weight"].T + weights[f"shared_fcs.{i}.bias"])
    scores = hidden @ weights["fc_cls.weight"].T + weights["fc_cls.bias"]
    deltas = hidden @ weights["fc_reg.weight"].T + weights["fc_reg.bias"]
    torch.testing.assert_close(scores, arrays["out64/cls_score"], rtol=0, atol=1e-9)
    labels = arrays["in/labels"].repeat_interleave(4)
    difference = (deltas - arrays["in/bbox_targets_expanded"].double().repeat_interleave(4, 0)).abs()
    smooth = torch.where(difference < 1, difference.square() / 2, difference - 0.5)
    loc = (smooth * arrays["in/bbox_weights_expanded"].double().repeat_interleave(4, 0)).sum()
    expected = 0.25 * (F.cross_entropy(scores, labels, reduction="sum") + loc) / 10
    torch.testing.assert_close(sum(losses.values()), expected, rtol=0, atol=1e-9)
    expected.backward()
    got = augfpn_state_to_official({f"consistent_supervision.{n}": p.grad for n, p in module.named_parameters()})
    for name, weight in weights.items():
        torch.testing.assert_close(got[f"auxiliary_bbox_head.{name}"], weight.grad, rtol=0, atol=1e-9)


def proposals_of_sizes(*sides):
    sides = torch.tensor(sides)
    boxes = torch.stack([torch.ones_like(sides), torch.ones_like(sides), 1 + sides, 1 + sides], dim=1)
    targets = boxes + torch.tensor([1.0, -1.0, 2.0, 3.0])
    return Instances(
        (600, 600), proposal_boxes=Boxes(boxes), gt_boxes=Boxes(targets), gt_classes=torch.arange(len(sides)) % 6
    )


def laterals(channels=8, requires_grad=False):
    return {
        f"lateral{i + 2}": torch.randn(1, channels, 608 // s, 608 // s, requires_grad=requires_grad)
        for i, s in enumerate(STRIDES)
    }


def test_single_level_supervises_each_region_where_the_rule_puts_it():
    module = branch(all_levels=False, weight=1.0)
    proposals = proposals_of_sizes(40.0, 130.0, 250.0, 460.0, 500.0)
    maps = laterals(requires_grad=True)
    with EventStorage():
        losses = module.box_losses(maps, [proposals])
    assert set(losses) == {"loss_cls_lateral", "loss_box_reg_lateral"}
    levels = [0, 1, 2, 3, 3]
    pooled = [
        ROIPooler(scales=[1 / STRIDES[level]], **POOLER)([maps[f"lateral{level + 2}"]], [proposals.proposal_boxes[i]])
        for i, level in enumerate(levels)
    ]
    scores, _ = module.box_predictor(module.box_head(torch.cat(pooled)))
    torch.testing.assert_close(losses["loss_cls_lateral"], F.cross_entropy(scores, proposals.gt_classes))


def test_all_levels_share_the_head_and_reach_every_lateral():
    module, maps = branch(), laterals(requires_grad=True)
    with EventStorage():
        losses = module.box_losses(maps, [proposals_of_sizes(40.0, 130.0, 250.0)])
    for name, value in maps.items():
        (gradient,) = torch.autograd.grad(losses[f"loss_cls_{name}"], value, retain_graph=True)
        assert gradient.any()
    boxes = proposals_of_sizes(40.0, 130.0, 250.0).proposal_boxes
    pooled = ROIPooler(scales=[1 / 16], **POOLER)([maps["lateral4"]], [boxes])
    scores, _ = module.box_predictor(module.box_head(pooled))
    expected = 0.25 * F.cross_entropy(scores, torch.arange(3))
    torch.testing.assert_close(losses["loss_cls_lateral4"], expected)


def test_no_regions_still_give_gradients():
    module = branch()
    with EventStorage():
        losses = module.box_losses(laterals(), [proposals_of_sizes()])
    sum(losses.values()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in module.parameters())


def test_weight_scales_every_loss():
    values = []
    for weight in (0.25, 0.5):
        torch.manual_seed(3)
        module = branch(weight=weight)
        maps = laterals()
        with EventStorage():
            values.append(module.box_losses(maps, [proposals_of_sizes(40.0, 130.0)]))
    for name in values[0]:
        torch.testing.assert_close(2 * values[0][name], values[1][name])


PYRAMID = {f"p{i}": ShapeSpec(channels=32, stride=2**i) for i in (2, 3, 4, 5, 6)}


def test_built_from_a_config():
    module = build_consistent_supervision(
        toy_detector_cfg("MODEL.CONSISTENT_SUPERVISION.WEIGHT", 0.5), PYRAMID, num_classes=7, with_masks=False
    )
    assert module.in_features == ("lateral2", "lateral3", "lateral4", "lateral5")
    assert module.box_predictor.cls_score.weight.shape == (8, 16) and module.weight == 0.5
    cfg = toy_detector_cfg("MODEL.CONSISTENT_SUPERVISION.MODE", "none")
    assert build_consistent_supervision(cfg, PYRAMID, num_classes=7, with_masks=False) is None


ERRORS = [
    (["MODEL.CONSISTENT_SUPERVISION.MODE", "all"], "MODE: unknown value 'all'; allowed: none, all_levels, single_"),
    (["MODEL.ROI_BOX_HEAD.NAME", ""], "MODEL.ROI_BOX_HEAD.NAME is empty; the paper's is NAME FastRCNNConvFCHead"),
    (["MODEL.ROI_MASK_HEAD.POOLER_TYPE", ""], "set MODEL.CONSISTENT_SUPERVISION.MASK False"),
]


@pytest.mark.parametrize(("options", "message"), ERRORS)
def test_errors_name_the_key(options, message):
    with pytest.raises(ValueError) as error:
        build_consistent_supervision(toy_detector_cfg(*options), PYRAMID, num_classes=7, with_masks=True)
    assert message in str(error.value)


def test_a_backbone_without_laterals_is_named():
    model = toy_detector("MODEL.BACKBONE.NAME", "build_pyramid_backbone")
    supervision = model.roi_heads.consistent_supervision
    with pytest.raises(ValueError, match=r'set MODEL\.NECK\.EXTRA_OUTPUTS \["lateral"\], or MODEL\.CONSISTENT_SUPERV'):
        supervision.box_losses(model.backbone(torch.zeros(1, 3, 64, 64)), [proposals_of_sizes(40.0)])
