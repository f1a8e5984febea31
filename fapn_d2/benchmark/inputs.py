"""Networks with random weights and random images with labels, for measuring time and memory only."""

import torch
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch import nn

from ..config.loading import load_config
from ..meta_arch.build import without_sync_bn

OBJECTS_PER_IMAGE = 8
#: Random weights give low scores. The best boxes are kept all the same, so that the mask head has work.
SETTINGS = (
    *("MODEL.WEIGHTS", ""),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
    *("MODEL.RETINANET.SCORE_THRESH_TEST", 0.0),
)


def build_random_network(
    config: str, overrides: tuple[str, ...], device: torch.device, memory_format: torch.memory_format
) -> tuple[nn.Module, CfgNode]:
    """The network of a config file with seeded random weights, and the config. Errors are those of `load_config`."""
    cfg = load_config(config, [*SETTINGS, *overrides, "MODEL.DEVICE", str(device)])
    torch.manual_seed(0)
    model = without_sync_bn(build_model(cfg))
    return model.to(memory_format=memory_format), cfg


def random_batch(cfg: CfgNode, size: tuple[int, int], count: int, device: torch.device) -> list[dict]:
    """``count`` images (3, H, W) in Detectron2's format, with boxes, masks and semantic labels."""
    generator = torch.Generator().manual_seed(0)
    height, width = size
    batch = []
    for _ in range(count):
        corner = torch.rand(OBJECTS_PER_IMAGE, 2, generator=generator) * torch.tensor([width / 2, height / 2])
        extent = (0.1 + 0.4 * torch.rand(OBJECTS_PER_IMAGE, 2, generator=generator)) * torch.tensor([width, height])
        boxes = torch.cat([corner, corner + extent], dim=1)
        instances = Instances(size, gt_boxes=Boxes(boxes))
        classes = min(cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.RETINANET.NUM_CLASSES)
        instances.gt_classes = torch.randint(classes, (OBJECTS_PER_IMAGE,), generator=generator)
        instances.gt_masks = _rectangles(boxes, size, cfg.INPUT.MASK_FORMAT)
        labels = torch.randint(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, size, generator=generator)
        image = torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator)
        batch.append(
            {
                "image": image.to(device),
                "height": height,
                "width": width,
                "instances": instances,
                "sem_seg": labels.to(device),
            }
        )
    return batch


def _rectangles(boxes: torch.Tensor, size: tuple[int, int], mask_format: str) -> PolygonMasks | BitMasks:
    if mask_format == "polygon":
        x0, y0, x1, y1 = boxes.double().unbind(1)
        corners = torch.stack([x0, y0, x1, y0, x1, y1, x0, y1], dim=1)
        return PolygonMasks([[polygon.numpy()] for polygon in corners])
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    x0, y0, x1, y1 = boxes[..., None, None].unbind(1)
    return BitMasks((x >= x0) & (x < x1) & (y >= y0) & (y < y1))


@torch.no_grad()
def settle_norms(model: nn.Module, batch: list[dict]) -> None:
    """Give batch normalisations, frozen ones too, the statistics of one batch.

    As the identity, which they start as, they would let the activations of random weights grow until losses are not
    finite (Detectron2 then stops) or samples lie outside of their maps (there is then nothing to read).
    """

    def measure(norm: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        norm.running_var.copy_(inputs[0].float().var((0, 2, 3), correction=0))
        norm.running_mean.copy_(inputs[0].float().mean((0, 2, 3)))

    norms = [m for m in model.modules() if isinstance(m, (FrozenBatchNorm2d, nn.BatchNorm2d))]
    handles = [m.register_forward_pre_hook(measure) for m in norms]
    training = model.training
    try:
        model.eval()(batch)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
