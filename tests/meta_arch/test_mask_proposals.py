"""The network that proposes segments: masks at the right place of the image, learning by heart, messages, pictures."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances, PolygonMasks
from pycocotools import mask as coco_mask

from fapn_d2.config.loading import load_config
from fapn_d2.evaluation.proposals import SegmentProposalEvaluator
from fapn_d2.inference.proposals import extract_proposals
from fapn_d2.inference.results import ResultFiles
from fapn_d2.layers.region_masks import RegionMasks
from fapn_d2.meta_arch.build import build_model
from fapn_d2.visualization.segments import from_prediction

SMALL = [
    *("MODEL.META_ARCHITECTURE", "MaskProposalNetwork", "MODEL.PROPOSAL_GENERATOR.NAME", "MaskProposals"),
    *("MODEL.MASK_ON", True, "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.MASK_PROPOSALS.HIDDEN_DIM", 64),
    *("MODEL.BACKBONE.NAME", "build_pyramid_backbone", "MODEL.BACKBONE.FREEZE_AT", 0, "MODEL.NECK.PRESET", "fpn"),
    *("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
    *("MODEL.RESNETS.NORM", "BN", "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]),
    *("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"], "MODEL.FPN.OUT_CHANNELS", 16),
]


def config(*opts):
    return load_config("", [*SMALL, *opts])


def shapes(height=96, width=128):
    """A light square and a dark bar on grey, with their masks."""
    image = torch.full((3, height, width), 110, dtype=torch.uint8)
    corners = [[12.0, 20.0, 56.0, 64.0], [70.0, 10.0, 90.0, 86.0]]
    for (x0, y0, x1, y1), value in zip(corners, (250, 10)):
        image[:, int(y0) : int(y1), int(x0) : int(x1)] = value
    masks = PolygonMasks([[[x0, y0, x1, y0, x1, y1, x0, y1]] for x0, y0, x1, y1 in corners])
    truth = Instances((height, width), gt_boxes=Boxes(corners), gt_masks=masks, gt_classes=torch.tensor([0, 0]))
    return {"image": image, "height": height, "width": width, "instances": truth, "image_id": 1}


@pytest.fixture
def dataset(tmp_path):
    sample = shapes()
    annotations = [
        {
            "id": n + 1,
            "image_id": 1,
            "category_id": 1,
            "iscrowd": 0,
            "segmentation": [polygon.tolist() for polygon in polygons],
            "area": float(area),
        }
        for n, (polygons, area) in enumerate(
            zip(sample["instances"].gt_masks.polygons, sample["instances"].gt_masks.area())
        )
    ]
    content = {"images": [{"id": 1, "height": 96, "width": 128}], "annotations": annotations}
    (tmp_path / "shapes.json").write_text(json.dumps(content | {"categories": [{"id": 1, "name": "shape"}]}))
    name = f"toy_segments_{tmp_path.name}"
    MetadataCatalog.get(name).json_file = str(tmp_path / "shapes.json")
    yield name
    MetadataCatalog.remove(name)


def average_recall(model, dataset, sample):
    with torch.no_grad():
        outputs = model.eval()([sample])
    evaluator = SegmentProposalEvaluator(dataset)
    evaluator.process([sample], outputs)
    return evaluator.evaluate()["mask_proposals"]["AR@100"], outputs[0]


@pytest.mark.slow
def test_learns_by_heart(dataset):
    torch.manual_seed(0)
    cfg = config("MODEL.MASK_PROPOSALS.TOPK_TEST", 100, "MODEL.MASK_PROPOSALS.MASK_THRESH_TEST", 0.5)
    model, sample = build_model(cfg), shapes()
    before, _ = average_recall(model, dataset, sample)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(60):
        optimizer.zero_grad()
        sum(model([sample]).values()).backward()
        optimizer.step()
    after, output = average_recall(model, dataset, sample)
    assert before < 10 and after >= 70

    # the same image, twice as large in the output: the same masks, twice as large
    with torch.no_grad():
        (large,) = model([sample | {"height": 192, "width": 256}])
    found, own = large["proposals"], output["proposals"].proposal_masks
    assert found.image_size == (192, 256) and torch.equal(found.proposal_masks.regions, own.regions * 2)
    square = np.zeros((192, 256), np.uint8, order="F")
    square[40:128, 24:112] = 1
    overlap = coco_mask.iou(found.proposal_masks.run_lengths(), [coco_mask.encode(square)], [0])
    assert overlap.max() > 0.8


def test_pictures_and_files(dataset, tmp_path):
    regions = torch.tensor([[10.0, 10.0, 30.0, 30.0], [20.0, 20.0, 60.0, 60.0]])
    masks = RegionMasks(torch.ones(2, 4, 4), regions, (96, 128), threshold=0.5)
    logits = torch.tensor([2.0, -2.0])
    output = {"proposals": Instances((96, 128), objectness_logits=logits, proposal_masks=masks)}
    drawn = from_prediction(output, dataset, least_score=0.0)
    assert drawn.extent == "objects" and [s.label for s in drawn.segments.values()] == ["proposal 12%", "proposal 88%"]
    # Interpolation cuts 3 pixels off each corner of the small square, 10 off the large one. Both lose one corner of the
    # 100 pixels that they share. The best is painted last.
    assert (drawn.labels == 2).sum() == 400 - 12 and (drawn.labels == 1).sum() == 1600 - 40 - 87
    entry = ResultFiles(tmp_path, dataset=dataset, least_score=0.5).add("a", "a.png", output)
    assert (entry["height"], entry["width"]) == (96, 128)
    (found,) = entry["proposals"]
    assert (
        found["score"] == pytest.approx(0.880797) and coco_mask.decode(found["segmentation"])[10:30, 10:30].sum() == 388
    )
    assert json.dumps(found) and coco_mask.area(found["segmentation"]) == 388


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_odd_sizes_and_images_without_objects(dtype):
    model = build_model(config("MODEL.RESNETS.NORM", "FrozenBN")).train()
    sample, empty = shapes(91, 117), shapes(77, 130)
    empty["instances"] = Instances((77, 130), gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0).long())
    for batch in ([empty], [sample, empty]):
        model.zero_grad()
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            losses = model(batch)
        assert set(losses) == {"loss_proposal_score", "loss_proposal_mask"}
        sum(losses.values()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        first, second = model.eval()([sample, {"image": empty["image"]}])
    assert (first["proposals"].image_size, second["proposals"].image_size) == ((91, 117), (77, 130))
    assert len(first["proposals"]) == 1000 and first["proposals"].proposal_masks.bitmasks().shape == (1000, 91, 117)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("MODEL.MASK_PROPOSALS.IN_FEATURES", ["p9"]), r"IN_FEATURES = \['p9'\]: the backbone gives \['p2'"),
        (("MODEL.MASK_PROPOSALS.WINDOWS", [4]), r"WINDOWS = \[4\]: give odd numbers of cells"),
        (("MODEL.MASK_PROPOSALS.WINDOWS", [5, 5]), "two of them are for objects of the same scale"),
        (("MODEL.MASK_PROPOSALS.TOPK_TEST", 0), "TOPK_TEST = 0: it must be at least 1"),
        (("MODEL.MASK_PROPOSALS.MASK_THRESH_TEST", 0.0), "MASK_THRESH_TEST = 0.0: it must be between 0 and 1"),
        (("MODEL.MASK_ON", False), "set MODEL.MASK_ON True"),
        (("MODEL.PROPOSAL_GENERATOR.NAME", "RPN"), "NAME is 'RPN'; MODEL.META_ARCHITECTURE MaskProposalNetwork needs"),
    ],
)
def test_wrong_configs(opts, message):
    with pytest.raises(ValueError, match=message):
        build_model(config(*opts))


def test_files_of_proposals_hold_boxes(tmp_path):
    with pytest.raises(ValueError, match="MaskProposalNetwork proposes masks; files of proposals hold boxes"):
        extract_proposals(config(), "coco_2017_val", tmp_path)
