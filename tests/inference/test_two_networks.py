"""Objects of one network, the semantic map of another: the result is that of one network with both branches."""

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from fapn_d2.inference.two_networks import SEMANTIC_ALONE, load_two_networks, two_networks_evaluator
from fapn_d2.meta_arch.panoptic_fpn import merged

from ..toys.panoptic_fcn import panoptic_inputs
from ..toys.panoptic_fpn import toy_cfg, toy_network


def test_two_halves_of_a_network_are_the_network(tmp_path):
    joint = toy_network().eval()
    weights = {}
    for name, parts in (
        ("instances", ("backbone", "proposal_generator", "roi_heads")),
        ("semantic", ("backbone", "sem_")),
    ):
        weights[name] = str(tmp_path / f"{name}.pth")
        torch.save({"model": {k: v for k, v in joint.state_dict().items() if k.startswith(parts)}}, weights[name])
    instances = toy_cfg("MODEL.SEM_SEG_HEAD.LOSS_WEIGHT", 0.0, "MODEL.WEIGHTS", weights["instances"])
    semantic = toy_cfg("MODEL.WEIGHTS", weights["semantic"], architecture="SemanticSegmentor")
    two = load_two_networks(instances, semantic)
    inputs = panoptic_inputs()
    with torch.no_grad():
        expected = joint(inputs)
    for found, wanted in zip(two(inputs), expected):
        assert torch.equal(found["sem_seg"], wanted["sem_seg"])
        assert torch.equal(found["panoptic_seg"][0], wanted["panoptic_seg"][0])
        assert found["panoptic_seg"][1] == wanted["panoptic_seg"][1]
        alone = merged(joint.merge, {"sem_seg": wanted["sem_seg"]})
        assert torch.equal(found[SEMANTIC_ALONE][0], alone[0])
        assert all(not segment["isthing"] for segment in found[SEMANTIC_ALONE][1])
    semantic.INPUT.MIN_SIZE_TEST = 640
    with pytest.raises(ValueError, match=r"INPUT.MIN_SIZE_TEST is 800 .* and 640 for the semantic network"):
        load_two_networks(instances, semantic)


def test_a_data_set_without_panoptic_annotations(tmp_path):
    DatasetCatalog.register("toy_pixels", list)
    MetadataCatalog.get("toy_pixels").set(evaluator_type="sem_seg", stuff_classes=["a", "b"], ignore_label=255)
    try:
        with pytest.raises(ValueError, match="toy_pixels, which has no panoptic annotations"):
            two_networks_evaluator(toy_cfg(), "toy_pixels", str(tmp_path))
    finally:
        DatasetCatalog.remove("toy_pixels")
        MetadataCatalog.remove("toy_pixels")
