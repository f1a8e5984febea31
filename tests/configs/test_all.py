"""Every shipped YAML resolves and builds; every kind of network runs forward and backward and is scored, small."""

import functools
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage

from fapn_d2.config.loading import load_config
from fapn_d2.reproduction.ledger import LEDGER_NAME

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SHIPPED = sorted(
    str(path.relative_to(CONFIGS))
    for path in CONFIGS.rglob("*.yaml")
    if "_base_" not in path.parts and path.name != LEDGER_NAME
)
# What makes two configs the same kind of network: these keys, with everything below them.
KIND = (
    "MODEL.META_ARCHITECTURE",
    "MODEL.BACKBONE.NAME",
    "MODEL.NECK",
    "MODEL.MASK_ON",
    "MODEL.FPN.IN_FEATURES",
    "MODEL.PROPOSAL_GENERATOR.NAME",
    "MODEL.RPN.IN_FEATURES",
    "MODEL.ROI_HEADS.IN_FEATURES",
    "MODEL.ROI_HEADS.NAME",
    "MODEL.ROI_BOX_HEAD.NAME",
    "MODEL.ROI_MASK_HEAD.NAME",
    "MODEL.ROI_MASK_HEAD.POINT_HEAD_ON",
    "MODEL.SEM_SEG_HEAD.NAME",
)
# Narrow layers and few samples; the wiring stays.
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
    "MODEL.PANOPTIC_FCN.POSITION_HEAD.CONVS_DIM": 64,
    "MODEL.PANOPTIC_FCN.KERNEL_HEAD.CONVS_DIM": 64,
    "MODEL.PANOPTIC_FCN.FEATURE_ENCODER.CONVS_DIM": 32,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": 32,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 32,
    "MODEL.ROI_MASK_HEAD.FC_DIM": 32,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
    "MODEL.TIMM.NAME": "test_efficientnet",
    "MODEL.RETINANET.NUM_CONVS": 1,
    "MODEL.FCOS.NUM_CONVS": 1,
    "MODEL.MASK_PROPOSALS.HIDDEN_DIM": 16,
    "MODEL.MASK_PROPOSALS.TOPK_TEST": 20,
    "MODEL.CONSISTENT_SUPERVISION.PRE_NMS_TOPK": 50,
    "MODEL.POINT_HEAD.FC_DIM": 32,
    "MODEL.POINT_HEAD.TRAIN_NUM_POINTS": 16,
    "MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS": 64,
    "MODEL.SEM_SEG_HEAD.MASK_DIM": 32,
    "MODEL.MASK_FORMER.HIDDEN_DIM": 32,
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": 32,
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 10,
    "MODEL.MASK_FORMER.DEC_LAYERS": 2,
    "TEST.DETECTIONS_PER_IMAGE": 5,
}
HEIGHT, WIDTH = 96, 128


@functools.cache
def _resolved(name):
    """Each file is read once, because reading takes longer than building on the meta device."""
    return load_config(str(CONFIGS / name))


def resolve(name):
    return _resolved(name).clone()


def value_at(node, key):
    for part in key.split("."):
        node = node[part]
    return node


@functools.cache
def representatives():
    """The first config of each kind."""
    kinds = {}
    for name in SHIPPED:
        cfg = _resolved(name)
        kinds.setdefault("\n".join(str(value_at(cfg, key)) for key in KIND), name)
    return sorted(kinds.values())


def small(name):
    cfg = resolve(name)
    cfg.merge_from_list([part for pair in SMALL.items() for part in pair])
    if "FCOS" in cfg.MODEL.META_ARCHITECTURE:  # its 32 groups cannot normalise a P7 of 1x1 with one channel each
        cfg.MODEL.FPN.OUT_CHANNELS = 64
    if cfg.MODEL.NECK.BOTTOM_UP == "build_swin_backbone":
        cfg.MODEL.TIMM.NAME = "swin_tiny_patch4_window7_224"
    if "build_deep_stem_resnet_backbone" in (cfg.MODEL.BACKBONE.NAME, cfg.MODEL.NECK.BOTTOM_UP):
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 16
    if cfg.MODEL.RESNETS.DEPTH > 34:  # Detectron2 gives basic blocks no width of their own
        cfg.MODEL.RESNETS.DEPTH = 50
        cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 8
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 32
    return cfg


def sample(cfg):
    """One image with two objects, a square and a thin bar, on two classes of stuff."""
    boxes = torch.tensor([[10.0, 12.0, 60.0, 62.0], [70.0, 20.0, 80.0, 90.0]])
    polygons = [[[x0, y0, x1, y0, x1, y1, x0, y1]] for x0, y0, x1, y1 in boxes.double().tolist()]
    masks = PolygonMasks(polygons)
    if cfg.INPUT.MASK_FORMAT == "bitmask":
        masks = BitMasks.from_polygon_masks(masks, HEIGHT, WIDTH)
    instances = Instances((HEIGHT, WIDTH), gt_boxes=Boxes(boxes), gt_classes=torch.tensor([0, 1]), gt_masks=masks)
    labels = torch.zeros(HEIGHT, WIDTH, dtype=torch.long)
    labels[HEIGHT // 2 :] = 1
    labels[:8] = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    image = torch.randint(0, 255, (3, HEIGHT, WIDTH), dtype=torch.uint8)
    sample = {"image": image, "height": HEIGHT, "width": WIDTH, "instances": instances, "sem_seg": labels}
    if cfg.MODEL.LOAD_PROPOSALS:
        near = torch.cat([boxes + 3, boxes - 8, boxes.flip(0) * 0.9]).clamp(min=0)
        proposals = Instances((HEIGHT, WIDTH), proposal_boxes=Boxes(near), objectness_logits=torch.arange(6.0))
        sample["proposals"] = proposals
    return sample


@pytest.mark.parametrize("name", SHIPPED)
def test_resolves_and_builds(name):
    cfg = resolve(name)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) > 1e6
    text = (CONFIGS / name).read_text()
    assert "OUTPUT_DIR" not in text and "/home/" not in text


def run_forward_and_backward(name, device="cpu", dtype=torch.float32, overrides=()):
    cfg = small(name)
    cfg.merge_from_list(list(overrides))
    cfg.MODEL.DEVICE = device
    model = build_model(cfg).train()
    samples = [sample(cfg) for _ in range(2)]
    autocast = torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32)
    with EventStorage(), autocast:
        losses = model(samples)
    assert losses and all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    lacking = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not lacking
    if dtype != torch.float16:  # whose gradients may overflow without a scaler
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    with torch.no_grad(), autocast:
        (output,) = model.eval()(samples[:1])
    if "sem_seg" in output:
        assert output["sem_seg"].shape == (cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, HEIGHT, WIDTH)
    if "instances" in output:
        assert output["instances"].image_size == (HEIGHT, WIDTH)
    if "proposals" in output:
        assert output["proposals"].image_size == (HEIGHT, WIDTH) and len(output["proposals"]) > 0
    assert set(output) & {"sem_seg", "instances", "proposals"}


@pytest.mark.parametrize("name", representatives())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_runs_forward_and_backward(name, dtype):
    run_forward_and_backward(name, dtype=dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("name", representatives())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_runs_forward_and_backward_on_cuda(name, dtype):
    run_forward_and_backward(name, "cuda", dtype)


def test_there_is_a_representative_of_every_host():
    hosts = {resolve(name).MODEL.META_ARCHITECTURE for name in representatives()}
    assert hosts >= {
        "GeneralizedRCNN",
        "ProposalNetwork",
        "RetinaNet",
        "PanopticFPN",
        "PanopticFCN",
        "SemanticSegmentor",
    }
