"""The flow warp against a loop over pixels, bilinear resizing, shifts by whole pixels and the official arrays."""

import importlib.util
import math
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fapn_d2.layers.flow_warp.warp import PAPER_UNIT, flow_warp

from ..interpreter import output_in_the_interpreter

NAME = "fapn_d2.layers.flow_warp.warp"
SIZES = [
    ((6, 10), (12, 20)),
    ((7, 11), (13, 21)),
    ((5, 8), (5, 8)),
    ((1, 1), (4, 3)),
    ((1, 1), (1, 1)),
    ((3, 4), (1, 1)),
]


def slow_warp(x, flow, *, unit, align_corners):
    """Pixel by pixel, from the formulas of the docstring."""
    n, channels, h, w = x.shape
    height, width = flow.shape[-2:]
    out = torch.zeros(n, channels, height, width, dtype=x.dtype)
    for b in range(n):
        for row in range(height):
            for column in range(width):
                u, v = flow[b, :, row, column].tolist()
                gx = (2 * column / (width - 1) - 1 if width > 1 else -1) + 2 * unit * u / width
                gy = (2 * row / (height - 1) - 1 if height > 1 else -1) + 2 * unit * v / height
                sx = (gx + 1) * (w - 1) / 2 if align_corners else ((gx + 1) * w - 1) / 2
                sy = (gy + 1) * (h - 1) / 2 if align_corners else ((gy + 1) * h - 1) / 2
                for y in (math.floor(sy), math.floor(sy) + 1):
                    for x0 in (math.floor(sx), math.floor(sx) + 1):
                        if 0 <= y < h and 0 <= x0 < w:
                            out[b, :, row, column] += (1 - abs(sy - y)) * (1 - abs(sx - x0)) * x[b, :, y, x0]
    return out


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("coarse", "fine"), SIZES)
def test_against_a_loop(coarse, fine, align_corners):
    x = torch.randn(2, 3, *coarse, dtype=torch.float64)
    for scale, unit in ((0.5, 0.5), (3, 1.0), (40, 0.5)):
        flow = scale * torch.randn(2, 2, *fine, dtype=torch.float64)
        expected = slow_warp(x, flow, unit=unit, align_corners=align_corners)
        got = flow_warp(x, flow, unit=unit, align_corners=align_corners)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_shift_by_one_pixel():
    """Between maps of one size a unit of flow is ``unit`` pixels, with align_corners times (W - 1) / W."""
    x = torch.randn(1, 2, 6, 9, dtype=torch.float64)
    right = torch.zeros(1, 2, 6, 9, dtype=torch.float64)
    right[:, 0] = 2 * 9 / 8
    got = flow_warp(x, right)
    torch.testing.assert_close(got[..., :-1], x[..., 1:])
    assert (got[..., -1].abs() < 1e-12).all()  # from outside
    down = torch.zeros_like(right)
    down[:, 1] = -6 / 5
    got = flow_warp(x, down, unit=PAPER_UNIT)
    torch.testing.assert_close(got[:, :, 1:], x[:, :, :-1])
    # without align_corners the grid runs to the outer edges; half a pixel of the fine map is half a step of it
    still = torch.zeros(1, 2, 6, 9, dtype=torch.float64)
    ramp = torch.arange(9, dtype=torch.float64).expand(1, 1, 6, 9)
    right[:, 0] = 1.0
    moved = flow_warp(ramp, right, align_corners=False) - flow_warp(ramp, still, align_corners=False)
    torch.testing.assert_close(moved[..., 1:5, 2:6], torch.full((1, 1, 4, 4), 0.5, dtype=torch.float64))


@pytest.mark.parametrize(("coarse", "fine"), SIZES[:5])
def test_zero_flow_is_bilinear_resizing(coarse, fine):
    x = torch.randn(2, 3, *coarse, dtype=torch.float64)
    expected = F.interpolate(x, fine, mode="bilinear", align_corners=True)
    torch.testing.assert_close(flow_warp(x, x.new_zeros(2, 2, *fine)), expected, rtol=0, atol=1e-12)


def test_official_arrays(reference):
    arrays = np.load(reference / "sfnet" / "fam.npz")
    x = torch.from_numpy(arrays["warp/in"])
    cases = [key[: -len("/flow")] for key in arrays.files if key.startswith("warp_") and key.endswith("/flow")]
    assert len(cases) == 5
    for case in cases:
        flow = torch.from_numpy(arrays[f"{case}/flow"])
        expected = torch.from_numpy(arrays[f"{case}/out64"])
        torch.testing.assert_close(flow_warp(x.double(), flow.double()), expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(flow_warp(x, flow), torch.from_numpy(arrays[f"{case}/out32"]), rtol=0, atol=5e-5)


def test_gradients():
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    flow = torch.randn(1, 2, 5, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(flow_warp, (x, flow))


def test_deterministic_on_the_cpu():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    try:
        x, flow = torch.randn(2, 16, 30, 40, requires_grad=True), torch.randn(2, 2, 60, 80, requires_grad=True)
        runs = []
        for _ in range(4):
            out = flow_warp(x, 20 * flow)
            runs.append([out, *torch.autograd.grad(out, (x, flow), torch.ones_like(out))])
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run))


@pytest.mark.gpu
def test_deterministic_mode_is_respected_on_cuda():
    x, flow = torch.randn(1, 16, 6, 8, device="cuda", requires_grad=True), torch.randn(1, 2, 12, 16, device="cuda")
    torch.use_deterministic_algorithms(True)
    try:
        out = flow_warp(x, flow)  # has no atomic additions
        with pytest.raises(RuntimeError, match="deterministic"):
            out.sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_samples_where_float32_does(dtype):
    """A grid of 1024 columns has more positions than a half between -1 and 1: it is not computed in one."""
    x = torch.arange(1024).float().expand(1, 1, 2, 1024)
    flow = torch.full((1, 2, 2, 1024), 0.5)
    expected = flow_warp(x, flow)
    got = flow_warp(x.to(dtype), flow.to(dtype))
    assert got.dtype == dtype
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(got.float(), expected, rtol=eps, atol=1)
    with torch.autocast("cpu", dtype=dtype):
        torch.testing.assert_close(flow_warp(x, flow), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_cuda_equals_cpu(dtype):
    x, flow = torch.randn(2, 8, 33, 40).to(dtype), (4 * torch.randn(2, 2, 65, 80)).to(dtype)
    expected = flow_warp(x, flow)
    got = flow_warp(x.cuda(), flow.cuda())
    assert got.dtype == dtype
    torch.testing.assert_close(got.cpu(), expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-4)


@pytest.mark.parametrize(
    ("x", "flow"), [((1, 2, 3, 4), (1, 3, 6, 8)), ((2, 2, 3, 4), (1, 2, 6, 8)), ((2, 3, 4), (1, 2, 6, 8))]
)
def test_shapes_that_do_not_fit(x, flow):
    with pytest.raises(ValueError) as error:
        flow_warp(torch.zeros(x), torch.zeros(flow))
    assert str(x) in str(error.value) and str(flow) in str(error.value)


@pytest.mark.parametrize("added_dtype", [torch.float32, torch.float64])
def test_added_map(added_dtype):
    x, flow, added = torch.randn(1, 4, 5, 6), torch.randn(1, 2, 9, 11), torch.randn(1, 4, 9, 11, dtype=added_dtype)
    expected = added + flow_warp(x, flow)
    got = flow_warp(x, flow, added=added)
    assert got.dtype == expected.dtype and torch.equal(got, expected)
    with pytest.raises(ValueError, match=r"must be \(1, 4, 9, 11\), got \(1, 4, 5, 6\)"):
        flow_warp(x, flow, added=x)


def test_environment_chooses_the_backend(monkeypatch):
    def fresh(value):
        monkeypatch.setenv("FAPN_FLOW_WARP", value)
        spec = importlib.util.spec_from_file_location("fapn_d2.layers.flow_warp.fresh_warp", sys.modules[NAME].__file__)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module._BACKEND

    assert fresh("grid_sample") == "grid_sample"
    with pytest.raises(ValueError, match="FAPN_FLOW_WARP: unknown backend 'fast' of the flow warp; choose one of auto"):
        fresh("fast")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the same tests run on the GPU themselves")
def test_triton_kernels_in_the_interpreter():
    output = output_in_the_interpreter("flow_warp/test_cuda.py")
    assert " passed" in output, output[-4000:]
