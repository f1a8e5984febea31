"""Each paper's pyramid under torch.compile: no graph breaks, one program for several sizes, the same numbers."""

import pytest
import torch
from torch._dynamo.utils import counters

from fapn_d2.necks.presets import PRESETS

from ..toys.pyramids import toy_maps, toy_pyramid

#: Images; none has a map as high as it is wide or as the batch is large, which torch.compile would take for a rule.
SIZES = [(96, 160), (65, 130), (200, 300)]
#: AugFPN pools to a tenth of the coarsest map: to more than one pixel on images of real size, which is another rule.
LARGE = [(640, 800), (700, 901), (650, 1200)]
LEVELS = ("res4", "res5")
CASES = [(preset, LARGE if preset == "augfpn" else SIZES) for preset in PRESETS]


@pytest.fixture(autouse=True)
def _fresh():
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def compiled(pyramid, backend):
    return torch.compile(pyramid, backend=backend, fullgraph=True, dynamic=True)


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize(("preset", "sizes"), CASES)
def test_one_program_for_all_sizes(preset, sizes, training):
    pyramid = toy_pyramid("build_pyramid_backbone", PRESET=preset, norm="BN", out_channels=16, features=LEVELS)
    pyramid.train(training)
    run = compiled(pyramid, "eager")
    for size in sizes:
        maps = toy_maps(LEVELS, size=size)
        torch.manual_seed(1)  # of dropout
        got = run(maps)
        torch.manual_seed(1)
        for name, value in pyramid(maps).items():
            torch.testing.assert_close(got[name], value)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("preset", ["fapn", "sfnet"])
def test_gradients_under_bfloat16(preset):
    pyramid = toy_pyramid("build_pyramid_backbone", PRESET=preset, norm="GN", out_channels=32, features=LEVELS).eval()
    run = compiled(pyramid, "aot_eager")
    for size in SIZES[:2]:
        maps = {name: value.requires_grad_() for name, value in toy_maps(LEVELS, size=size).items()}
        gradients = []
        for forward in (run, pyramid):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                outputs = forward(maps)
            loss = sum((value.float() - 1).square().mean() for value in outputs.values())
            found = torch.autograd.grad(loss, [*maps.values(), *pyramid.parameters()])
            gradients.append(torch.cat([g.flatten() for g in found]))
        # 8 bits; where a rounding falls elsewhere, a sample moves.
        torch.testing.assert_close(*gradients, rtol=0, atol=0.02 * gradients[1].abs().max().item())
        assert gradients[0].count_nonzero() > 0.5 * gradients[0].numel()
    assert counters["stats"]["unique_graphs"] == 1
