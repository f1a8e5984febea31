"""Panoptic FPN's Figure 4 by counting: every point, by hand for one stage, and what the paper's text says about it."""

import json
import runpy

import pytest
import torch
from PIL import Image

from fapn_d2.reproduction.complexity import count_flops
from fapn_d2.reproduction.ledger import CONFIGS
from fapn_d2.reproduction.resolution_cost import (
    KINDS,
    STRIDES,
    Cost,
    SymmetricDecoder,
    resnet_101,
    resolution_costs,
    table,
)

# multiply-adds (T) and activations (G) at 1/32, 1/16, 1/8 and 1/4, counted independently of this project
EXPECTED = {
    "FPN": [(0.319, 0.657), (0.326, 0.662), (0.349, 0.678), (0.435, 0.746)],
    "dilation": [(0.316, 0.656), (0.408, 0.726), (1.415, 1.896), (5.560, 6.929)],
    "symmetric decoder": [(0.352, 0.679), (0.582, 0.977), (0.637, 1.095), (0.684, 1.279)],
}


@pytest.fixture(scope="module")
def costs():
    return {(c.kind, c.stride): (c.tera_macs, c.giga_activations) for c in resolution_costs()}


def test_every_point(costs):
    assert list(costs) == [(kind, stride) for kind in KINDS for stride in STRIDES]
    for (kind, stride), found in costs.items():
        assert found == pytest.approx(EXPECTED[kind][STRIDES.index(stride)], abs=0.0006), (kind, stride)


def test_what_the_text_says(costs):
    """Section 3.3 and the caption of Figure 4."""
    fpn, d16, d8 = costs["FPN", 4], costs["dilation", 16], costs["dilation", 8]
    symmetric = costs["symmetric decoder", 4]
    for i in range(2):
        assert fpn[i] / d16[i] == pytest.approx(1, abs=0.1)  # "similar computationally to dilation-16"
        assert d8[i] / d16[i] == pytest.approx(3, abs=0.6)  # "a further ~3x more compute and memory"
        assert symmetric[i] / fpn[i] == pytest.approx(2, abs=0.5)  # "~2x more efficient"
    # the axis of multiply-adds goes from 0.3 to 6.0
    assert min(c[0] for c in costs.values()) > 0.3 and max(c[0] for c in costs.values()) < 6.0


def test_the_first_stage_of_the_decoder_by_hand():
    """Three bottleneck blocks of 2048 channels on a map of 2 x 3, the first with a projection."""
    with torch.device("meta"):
        decoder, image = SymmetricDecoder(32).eval(), torch.zeros(1, 3, 64, 96)
    counted = count_flops(decoder, image, convention="conv_macs")
    block = 2048 * 512 + 9 * 512 * 512 + 512 * 2048
    assert counted.by_module["stages.0"] == 6 * (3 * block + 2048 * 2048)
    assert counted.activations_by_module["stages.0"] == 6 * (3 * (512 + 512 + 2048) + 2048)


@pytest.mark.parametrize(("stride", "dilations"), [(32, [1, 1, 1]), (16, [1, 1, 2]), (8, [1, 2, 4]), (4, [2, 4, 8])])
def test_dilation_replaces_strides(stride, dilations):
    with torch.device("meta"):
        network = resnet_101(stride)
        maps = network(torch.zeros(1, 3, 64, 64))
    assert maps["res5"].shape[-1] == 64 // stride
    assert [getattr(network, name)[-1].conv2.dilation[0] for name in ("res3", "res4", "res5")] == dilations
    assert sum(p.numel() for p in network.parameters()) == 42_394_816


def test_sizes_and_the_table():
    with pytest.raises(ValueError, match="must be positive multiples of 32 pixels, got 100 x 64"):
        resolution_costs((100, 64))
    small = resolution_costs((32, 32), strides=(32, 16))
    assert table(small).splitlines()[:2] == ["| T / G | 1/32 | 1/16 |", "|---|---|---|"]
    assert len(table(small).splitlines()) == 5


def test_the_record_and_the_readme_hold_what_is_counted(costs):
    folder = CONFIGS / "panoptic_fpn"
    content = json.loads((folder / "resolution_cost.json").read_text())
    assert content["size"] == [1024, 2048]
    recorded = [Cost(**cost) for cost in content["costs"]]
    assert {(c.kind, c.stride): (c.tera_macs, c.giga_activations) for c in recorded} == {
        key: pytest.approx(cost, abs=1e-6) for key, cost in costs.items()
    }
    assert table(recorded) in (folder / "README.md").read_text()


def test_the_tool_draws_and_writes(tmp_path, capsys):
    tool = runpy.run_path(str(CONFIGS.parent / "tools" / "plot_resolution_cost.py"))
    picture, numbers = tmp_path / "a" / "figure.png", tmp_path / "b" / "figure.json"
    tool["main"](["--size", "64", "64", "--output", str(picture), "--json", str(numbers)])
    assert "| symmetric decoder |" in capsys.readouterr().out
    assert Image.open(picture).size == (1344, 576)
    assert len(json.loads(numbers.read_text())["costs"]) == 12
    with pytest.raises(SystemExit) as stopped:
        tool["main"](["--size", "100", "64", "--output", str(picture)])
    assert stopped.value.code == 2
    assert "error: the sides of the image must be positive multiples of 32" in capsys.readouterr().err
