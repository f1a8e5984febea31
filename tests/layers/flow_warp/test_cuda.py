"""The flow warp's operator and its Triton kernels against ``F.grid_sample`` in float64.

On CUDA the kernels run as they are. Without a GPU they run in Triton's interpreter, as in
``deform_conv/test_cuda.py``: ``test_warp.py`` runs this file in a process of its own with TRITON_INTERPRET=1.
"""

import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fapn_d2.layers.flow_warp import cuda as flow_warp_triton
from fapn_d2.layers.flow_warp.operator import by_grid_sample, operator
from fapn_d2.layers.flow_warp.warp import flow_warp

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CUDA = torch.cuda.is_available() and not INTERPRETED
DEVICE = torch.device("cuda" if CUDA else "cpu")
runs_kernels = pytest.mark.skipif(not (CUDA or INTERPRETED), reason="needs CUDA or TRITON_INTERPRET=1")
#: `make test-gpu` runs all of this file, where there is a GPU.
pytestmark = [pytest.mark.gpu] if CUDA else []
LAYOUTS = [torch.contiguous_format, torch.channels_last]
#: Largest error relative to the largest value. Positions are float32: at 100 pixels they are exact to 1e-5.
TOLERANCES = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def make_inputs(n=2, c=20, coarse=(5, 6), fine=(9, 13), dtype=torch.float32, spread=4.0, layout=LAYOUTS[0]):
    """x, flow, added and the output's gradient; some flow points far outside."""
    flow = spread * torch.randn(n, 2, *fine)
    flow[:, :, 0, ::3] *= 100
    maps = (torch.randn(n, c, *coarse), flow, torch.randn(n, c, *fine), torch.randn(n, c, *fine))
    return [t.to(DEVICE, dtype).contiguous(memory_format=layout) for t in maps]


def check(x, flow, added, grad, unit=0.5, align_corners=True):
    leaves = [t.double().requires_grad_() for t in (x, flow, added)]
    expected = by_grid_sample(*leaves, unit, align_corners)
    wanted = torch.autograd.grad(expected, leaves[:2], grad.double())
    out = flow_warp_triton.forward(x, flow, added, unit, align_corners)
    found = flow_warp_triton.backward(grad, x, flow, unit, align_corners, (True, True))
    assert out.is_contiguous(memory_format=torch.channels_last) or x.is_contiguous()
    assert [g.stride() for g in found] == [t.stride() for t in (x, flow)]
    for a, b in zip([out, *found], [expected.detach(), *wanted]):
        assert a.dtype == x.dtype and a.shape == b.shape
        assert (a.double() - b).abs().max() <= TOLERANCES[x.dtype] * max(b.abs().max(), 1e-3)


@runs_kernels
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_grid_sample(layout, dtype):
    check(*make_inputs(dtype=dtype, layout=layout))
    check(*make_inputs(n=1, c=130, fine=(5, 6), dtype=dtype, layout=layout), unit=1.0, align_corners=False)


def flow_between_pixels(n, coarse, fine, spread, align_corners):
    """A flow whose samples, some outside, lie at least a fifth from any pixel's row and column: at whole pixels the
    derivative by the flow is one of two, and rounding decides which."""
    parts = []
    for side in (1, 0):
        position = torch.floor(coarse[side] / 2 + spread * torch.randn(n, *fine, dtype=torch.float64))
        position += 0.2 + 0.6 * torch.rand(n, *fine, dtype=torch.float64)
        span, start = (coarse[side] - 1, 0.0) if align_corners else (coarse[side], -0.5)
        pixel = torch.arange(fine[side]).view((1, -1) if side == 1 else (-1, 1))
        still = pixel * span / max(fine[side] - 1, 1) + start
        # A coarse map of one pixel is not left by any flow where corners are aligned.
        parts.append((position - still) * fine[side] / (0.5 * span) if span else torch.zeros_like(position))
    return torch.stack(parts, dim=1).float()


@runs_kernels
@settings(max_examples=100 if CUDA else 8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    n=st.integers(1, 3),
    c=st.integers(1, 70),
    coarse=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    fine=st.tuples(st.integers(1, 17), st.integers(1, 17)),
    spread=st.sampled_from([0.3, 5.0, 1e4]),
    layout=st.sampled_from(LAYOUTS),
    align_corners=st.booleans(),
    seed=st.integers(0, 999),
)
def test_random_shapes(n, c, coarse, fine, spread, layout, align_corners, seed):
    torch.manual_seed(seed)
    x, _, added, grad = make_inputs(n, c, coarse, fine, layout=layout)
    flow = flow_between_pixels(n, coarse, fine, spread, align_corners)
    check(x, flow.to(DEVICE).contiguous(memory_format=layout), added, grad, align_corners=align_corners)


@runs_kernels
def test_only_what_is_asked_for():
    x, flow, added, grad = make_inputs()
    plain = flow_warp_triton.forward(x, flow, None, 0.5, True)
    torch.testing.assert_close(flow_warp_triton.forward(x, flow, added, 0.5, True), plain + added)
    together = flow_warp_triton.backward(grad, x, flow, 0.5, True, (True, True))
    for part in (0, 1):
        alone = flow_warp_triton.backward(grad, x, flow, 0.5, True, (part == 0, part == 1))
        assert alone[1 - part] is None
        torch.testing.assert_close(alone[part], together[part])
    empty = flow_warp_triton.forward(x[:0], flow[:0], None, 0.5, True)
    assert empty.shape == (0, 20, 9, 13)


@runs_kernels
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's, in the interpreter
def test_not_a_number_stays_local():
    x, flow, _, _ = make_inputs()
    clean = flow_warp_triton.forward(x, flow, None, 0.5, True)
    flow[0, 1, 3, 5], flow[1, 0, 2, 2] = float("nan"), float("inf")
    out = flow_warp_triton.forward(x, flow, None, 0.5, True)
    out[0, :, 3, 5], out[1, :, 2, 2] = clean[0, :, 3, 5], 0
    assert out.isfinite().all()


@runs_kernels
def test_deterministic_mode_is_respected():
    x, flow, _, grad = make_inputs()
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError, match="fapn_d2::flow_warp has no deterministic gradient of its input"):
            flow_warp_triton.backward(grad, x, flow, 0.5, True, (True, True))
        flow_warp_triton.backward(grad, x, flow, 0.5, True, (False, True))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.skipif(INTERPRETED, reason="the operator runs PyTorch's kernels here")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("with_added", [True, False])
def test_operator_contract(layout, with_added):
    x, flow, added, _ = (t.requires_grad_() for t in make_inputs(layout=layout))
    torch.library.opcheck(operator, (x, flow, added if with_added else None, 0.5, True))


@pytest.mark.skipif(INTERPRETED, reason="the operator runs PyTorch's kernels here")
def test_operator_equals_grid_sample_with_gradients():
    inputs = [t.double().requires_grad_() for t in make_inputs()[:3]]
    for unit, align_corners in ((0.5, True), (1.0, False)):
        ours, theirs = operator(*inputs, unit, align_corners), by_grid_sample(*inputs, unit, align_corners)
        torch.testing.assert_close(ours, theirs)
        grad = torch.randn_like(ours)
        for a, b in zip(torch.autograd.grad(ours, inputs, grad), torch.autograd.grad(theirs, inputs, grad)):
            torch.testing.assert_close(a, b)
    compiled = torch.compile(operator, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs, 0.5, True), operator(*inputs, 0.5, True))


@pytest.mark.skipif(INTERPRETED, reason="compiles the kernels")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["warp_kernel", "warp_gradient_kernel"])
def test_compiles_for_hopper_in_bfloat16(name, layout):
    """Needs no GPU: what is read and written per instruction at SFNet's finest level."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from fapn_d2.layers.flow_warp import cuda_kernels as kernels

    x = torch.empty(1, 128, 128, 256, dtype=torch.bfloat16, device="meta").contiguous(memory_format=layout)
    flow = torch.empty(1, 2, 256, 512, dtype=torch.bfloat16, device="meta")
    values = flow_warp_triton._Problem(x, flow, 0.5, True).arguments
    values |= {"HAS_ADDED": True, "NEEDS_X": True, "NEEDS_FLOW": True}
    function = getattr(kernels, name)
    constants, signature, attributes = {}, {}, {}
    for index, parameter in enumerate(function.params):
        if parameter.name not in values:
            signature[parameter.name] = "*fp32" if parameter.name == "grad_x" else "*bf16"
            attributes[(index,)] = [["tt.divisibility", 16]]
        elif parameter.is_constexpr or (isinstance(values[parameter.name], int) and values[parameter.name] == 1):
            signature[parameter.name], constants[parameter.name] = "constexpr", values[parameter.name]
        else:
            signature[parameter.name] = "fp32" if isinstance(values[parameter.name], float) else "i32"
    code = triton.compile(ASTSource(function, signature, constants, attributes), target=GPUTarget("cuda", 90, 32))
    assert code.asm["ptx"]
    if name == "warp_kernel" and layout == torch.channels_last:
        assert "st.global.v4.b32" in code.asm["ptx"]  # eight channels at a time


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_public_function_runs_the_kernels(dtype):
    x, flow, added, _ = (t.cuda().requires_grad_() for t in make_inputs(c=64, coarse=(16, 16), fine=(32, 32)))
    with torch.profiler.profile() as profile, torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
        flow_warp(x, flow, added=added).square().sum().backward()
    names = " ".join(event.key for event in profile.key_averages())
    assert "warp_kernel" in names and "warp_gradient_kernel" in names and "grid_sampler" not in names
    assert all(t.grad.isfinite().all() for t in (x, flow, added))
