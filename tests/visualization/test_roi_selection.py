"""Figure 4's numbers against a plain computation, and its picture."""

import pytest
import torch
from PIL import Image

from fapn_d2.visualization.roi_selection import SelectionRatios, draw_selection, measure_selection, record_selection

from ..toys.detectors import toy_detector, toy_inputs

FUSION = "MODEL.SOFT_ROI_SELECTION.FUSION"


@pytest.mark.parametrize("fusion", ["asf", "acf"])
def test_means_over_positions_then_over_regions(fusion):
    model = toy_detector(FUSION, fusion)
    batches = [[image] for image in toy_inputs()]
    seen = []
    pooler = model.roi_heads.box_pooler
    pooler.pooler.canonical_box_size = 16  # so that regions of these small images belong to several levels
    hook = pooler.register_forward_hook(lambda module, args, output: seen.append(args))
    expected_outputs = [model.eval()(batch)[0]["instances"].scores for batch in batches]
    hook.remove()
    ratios = measure_selection(model.train(), batches)
    weights, levels = [], []
    for maps, boxes in seen:
        regions = torch.cat([boxes_of_image.tensor for boxes_of_image in boxes])
        pooled = [
            pool(m, torch.cat([torch.zeros(len(regions), 1), regions], 1))
            for pool, m in zip(pooler.level_poolers, maps)
        ]
        weights.append(pooler.fusion.weights(pooled).flatten(2).mean(2))
        sides = ((regions[:, 2] - regions[:, 0]) * (regions[:, 3] - regions[:, 1])).sqrt()
        levels.append((4 + torch.log2(sides / 16)).floor().clamp(2, 5) - 2)
    weights, levels = torch.cat(weights), torch.cat(levels)
    assert ratios.levels == ("p2", "p3", "p4", "p5") and int(ratios.regions.sum()) == len(levels) > 20
    assert (ratios.regions > 0).sum() > 1
    for level in range(4):
        chosen = weights[levels == level]
        assert len(chosen) == ratios.regions[level]
        torch.testing.assert_close(ratios.weights[level].float(), chosen.mean(0), equal_nan=True)
    assert not pooler._forward_pre_hooks and not pooler.fusion._forward_hooks
    after = [model(batch)[0]["instances"].scores for batch in batches]
    assert all(torch.equal(a, b) for a, b in zip(after, expected_outputs))


def test_number_of_images():
    model = toy_detector()
    one = measure_selection(model, [[image] for image in toy_inputs()], images=1)
    assert 0 < int(one.regions.sum()) <= 30


def test_picture_and_table(tmp_path):
    weights = torch.tensor([[0.5, 0.25], [float("nan")] * 2])
    ratios = SelectionRatios(levels=("p2", "p3"), regions=torch.tensor([7, 0]), weights=weights)
    draw_selection(ratios, tmp_path / "chart.png")
    with Image.open(tmp_path / "chart.png") as picture:
        assert picture.width > picture.height > 200
    first, second = ratios.table().splitlines()[1:]
    assert first.split() == ["p2", "7", "0.5000", "0.2500"] and second.split() == ["p3", "0", "nan", "nan"]


@pytest.mark.parametrize("options", [(FUSION, "sum"), (FUSION, "none"), ("MODEL.ROI_HEADS.NAME", "StandardROIHeads")])
def test_detectors_without_weights_are_refused(options):
    with (
        pytest.raises(ValueError, match="no weights to measure: the detector needs"),
        record_selection(toy_detector(*options)),
    ):
        pass
