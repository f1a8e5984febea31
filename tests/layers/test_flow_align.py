"""Flow alignment against the official arrays; sizes, types, gradients."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fapn_d2.layers.flow_align import FlowAlign

OFFICIAL = {"down_h": "reduce_coarse", "down_l": "reduce_fine", "flow_make": "flow"}


@pytest.mark.parametrize(("dtype", "bits", "atol"), [(torch.float64, 64, 1e-9), (torch.float32, 32, 5e-5)])
@pytest.mark.parametrize("case", ["even", "odd", "odd2", "samesize", "one"])
def test_official_arrays(reference, case, dtype, bits, atol):
    arrays = np.load(reference / "sfnet" / "fam.npz")
    align = FlowAlign(8)
    state = {f"{ours}.weight": torch.from_numpy(arrays[f"sd/{name}.weight"]) for name, ours in OFFICIAL.items()}
    align.load_state_dict(state, strict=True)
    align.to(dtype)
    fine, coarse = (torch.from_numpy(arrays[f"{case}/{name}"]).to(dtype) for name in ("low", "high"))
    flow = torch.from_numpy(arrays[f"{case}/flow{bits}"])
    torch.testing.assert_close(align.predict_flow(fine, coarse), flow, rtol=0, atol=atol)
    torch.testing.assert_close(align(fine, coarse), torch.from_numpy(arrays[f"{case}/out{bits}"]), rtol=0, atol=atol)


def test_flow_comes_from_both_maps_coarse_first():
    align = FlowAlign(4).double()
    fine, coarse = torch.randn(1, 4, 6, 8).double(), torch.randn(1, 4, 3, 4).double()
    reduced = align.reduce_coarse(coarse), align.reduce_fine(fine)
    with torch.no_grad():
        align.flow.weight[:, 2:] = 0
    upsampled = F.interpolate(reduced[0], (6, 8), mode="bilinear", align_corners=True)
    expected = F.conv2d(upsampled, align.flow.weight[:, :2], padding=1)
    torch.testing.assert_close(align.predict_flow(fine, coarse), expected)
    align.align_corners = False
    upsampled = F.interpolate(reduced[0], (6, 8), mode="bilinear", align_corners=False)
    expected = F.conv2d(upsampled, align.flow.weight[:, :2], padding=1)
    torch.testing.assert_close(align.predict_flow(fine, coarse), expected)


def test_sum_in_one_pass():
    align = FlowAlign(4)
    fine, coarse = torch.randn(1, 4, 6, 8), torch.randn(1, 4, 3, 4)
    assert torch.equal(align.align_and_add(fine, coarse), fine + align(fine, coarse))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_and_gradients(dtype):
    align = FlowAlign(8)
    fine, coarse = torch.randn(1, 8, 9, 11, requires_grad=True), torch.randn(1, 8, 4, 5, requires_grad=True)
    expected = align(fine, coarse)
    with torch.autocast("cpu", dtype=dtype):
        got = align(fine, coarse)
        got.float().square().mean().backward()
    # the map that is warped is not rounded; positions are, to the bits of the flow
    assert (got - expected).norm() / expected.norm() < 0.02
    for tensor in (*align.parameters(), fine, coarse):
        assert tensor.grad.isfinite().all() and tensor.grad.any()


def test_initial_weights_are_pytorchs():
    align = FlowAlign(64)
    for conv, fan_in in ((align.reduce_fine, 64), (align.reduce_coarse, 64), (align.flow, 64 * 9)):
        assert conv.bias is None
        assert 0.9 * fan_in**-0.5 < conv.weight.abs().max() <= fan_in**-0.5
    assert sum(p.numel() for p in FlowAlign(128).parameters()) == 18_688


def test_odd_channels():
    with pytest.raises(ValueError, match="odd number of them: 7"):
        FlowAlign(7)
