"""Small detectors that tests of heads and meta-architectures share: a few channels, images of about 100 pixels."""

import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_model
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import nn

from fapn_d2 import add_fapn_config

CLASSES = 5


class TinyBottomUp(Backbone):
    """Strides 4 to 32 by one convolution each."""

    def __init__(self):
        super().__init__()
        channels = (3, 8, 8, 12, 16)
        self._out_features = ["res2", "res3", "res4", "res5"]
        self._out_feature_channels = dict(zip(self._out_features, channels[1:]))
        self._out_feature_strides = dict(zip(self._out_features, (4, 8, 16, 32)))
        self.stages = nn.ModuleList(
            nn.Conv2d(channels[i], channels[i + 1], 3, stride=4 if i == 0 else 2, padding=1) for i in range(4)
        )

    def forward(self, x):
        maps = {}
        for name, stage in zip(self._out_features, self.stages):
            maps[name] = x = stage(x).relu()
        return maps


@BACKBONE_REGISTRY.register()
def build_tiny_bottom_up(cfg, input_shape: ShapeSpec):
    return TinyBottomUp()


def toy_detector_cfg(*options, one_stage=""):
    """A two-stage detector, or the one-stage META_ARCHITECTURE ``one_stage``, with AugFPN's neck."""
    cfg = get_cfg()
    add_fapn_config(cfg)
    model = cfg.MODEL
    model.DEVICE = "cpu"
    model.MASK_ON = False
    model.NECK.BOTTOM_UP = "build_tiny_bottom_up"
    model.FPN.OUT_CHANNELS = 32  # GN has 32 groups
    model.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    model.ROI_BOX_HEAD.NUM_FC = 2
    model.ROI_BOX_HEAD.FC_DIM = 16
    model.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    model.ROI_HEADS.NUM_CLASSES = model.RETINANET.NUM_CLASSES = model.FCOS.NUM_CLASSES = CLASSES
    model.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    if one_stage:
        model.META_ARCHITECTURE = one_stage
        model.BACKBONE.NAME = "build_retinanet_resnet_augfpn_backbone"
        model.FPN.IN_FEATURES = ["res3", "res4", "res5"]
        model.ANCHOR_GENERATOR.SIZES = [[x, x * 1.4] for x in (16, 32, 64, 128, 256)]
        model.RETINANET.NUM_CONVS = model.FCOS.NUM_CONVS = 1
    else:
        model.META_ARCHITECTURE = "GeneralizedRCNN"
        model.BACKBONE.NAME = "build_resnet_augfpn_backbone"
        model.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
        model.ANCHOR_GENERATOR.SIZES = [[8], [16], [32], [64], [128]]
        model.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
        model.RPN.PRE_NMS_TOPK_TRAIN = model.RPN.PRE_NMS_TOPK_TEST = 50
        model.RPN.POST_NMS_TOPK_TRAIN = model.RPN.POST_NMS_TOPK_TEST = 30
        model.ROI_HEADS.NAME = "AugFPNROIHeads"
        model.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
        model.ROI_HEADS.SCORE_THRESH_TEST = 0.0
        model.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
        model.ROI_MASK_HEAD.NUM_CONV = 1
        model.ROI_MASK_HEAD.CONV_DIM = 8
    cfg.merge_from_list(list(options))
    return cfg


def toy_detector(*options, one_stage=""):
    torch.manual_seed(0)
    return build_model(toy_detector_cfg(*options, one_stage=one_stage))


def toy_inputs(counts=(3, 2), size=(64, 96), masks=None):
    """Images with random objects; ``counts`` objects each, ``masks`` "polygon" or "bitmask" or None."""
    generator = torch.Generator().manual_seed(7)
    inputs = []
    for count in counts:
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([50.0, 30.0])
        extent = 8 + torch.rand(count, 2, generator=generator) * torch.tensor([35.0, 22.0])
        boxes = torch.cat([corner, corner + extent], dim=1)
        instances = Instances(size, gt_boxes=Boxes(boxes))
        instances.gt_classes = torch.randint(CLASSES, (count,), generator=generator)
        if masks == "polygon":
            outlines = [np.array([x0, y0, x1, y0, x1, y1]) for x0, y0, x1, y1 in boxes.double().numpy()]
            instances.gt_masks = PolygonMasks([[outline] for outline in outlines])
        elif masks == "bitmask":
            rows, columns = torch.arange(size[0])[:, None], torch.arange(size[1])
            x0, y0, x1, y1 = (edge[:, None, None] for edge in boxes.unbind(1))
            instances.gt_masks = BitMasks((rows >= y0) & (rows < y1) & (columns >= x0) & (columns < x1))
        image = torch.randint(256, (3, *size), generator=generator).float()
        inputs.append({"image": image, "instances": instances, "height": size[0], "width": size[1]})
    return inputs


def train_step(model, inputs, seed=0):
    """One forward and backward pass -> losses, what was logged."""
    torch.manual_seed(seed)
    model.train()
    model.zero_grad()
    with EventStorage() as storage:
        losses = model(inputs)
        sum(losses.values()).backward()
    return losses, {name: value for name, (value, _) in storage.latest().items()}


def without_gradient(model):
    return [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
