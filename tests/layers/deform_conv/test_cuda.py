"""The Triton kernels of the deformable convolution against torchvision in float64.

On CUDA they run as they are. Without a GPU they run in Triton's interpreter, which must be switched on before Triton is
imported: ``test_operator.py`` runs this file in a process of its own with TRITON_INTERPRET=1. The interpreter
multiplies bfloat16 matrices wrongly (it reads their bits as integers), so that bfloat16 is for the GPU alone.
"""

import os
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn.modules.utils import _pair
from torchvision.ops import deform_conv2d

from fapn_d2.layers import triton_support
from fapn_d2.layers.deform_conv import cuda as deform_conv_triton
from fapn_d2.layers.deform_conv.cuda_launch import Launch, forward_launch, position_launch, weight_launch
from fapn_d2.layers.deform_conv.module import modulated_deform_conv2d
from fapn_d2.layers.deform_conv.operator import output_size

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CUDA = torch.cuda.is_available() and not INTERPRETED
DEVICE = torch.device("cuda" if CUDA else "cpu")
runs_kernels = pytest.mark.skipif(not (CUDA or INTERPRETED), reason="needs CUDA or TRITON_INTERPRET=1")
#: `make test-gpu` runs all of this file, where there is a GPU.
pytestmark = [pytest.mark.gpu] if CUDA else []

#: Largest error relative to the largest value: a few units of the last place of what is stored; sums are float32.
TOLERANCES = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if CUDA else [])]


def make_inputs(
    n=1, c=16, o=16, size=(5, 7), groups=2, kernel=3, mask=True, dtype=torch.float32, spread=3.0, **geometry
):
    kh, kw = _pair(kernel)
    x, weight = torch.randn(n, c, *size), torch.randn(o, c, kh, kw) / (c * kh * kw) ** 0.5
    shape = output_size(x, weight, *(_pair(geometry.get(k, 1)) for k in ("stride", "padding", "dilation")))
    offset = torch.randn(n, 2 * groups * kh * kw, *shape) * spread
    offset[:, ::3] = offset[:, ::3].round()
    offset[:, :, 0] = 0
    offset[:, 1::5, -1] *= 100
    modulation = torch.rand(n, groups * kh * kw, *shape) if mask else None
    tensors = (x, offset, modulation, weight, torch.randn(o))
    return [t if t is None else t.to(DEVICE, dtype) for t in tensors]


def make_meta(n, c, o, groups, size, dtype):
    """x, offset, mask and weight of a 3x3 kernel, without values."""
    shapes = ((n, c, *size), (n, 18 * groups, *size), (n, 9 * groups, *size), (o, c, 3, 3))
    return [torch.empty(shape, dtype=dtype, device="meta") for shape in shapes]


def check(inputs, tolerance=None, layout=torch.contiguous_format, **geometry):
    """Output and gradients of the kernels against torchvision's in float64 on the same (rounded) inputs."""
    x, offset, mask, weight, bias = inputs
    tolerance = tolerance or TOLERANCES[x.dtype]
    leaves = [t if t is None else t.double().requires_grad_() for t in inputs]
    expected = deform_conv2d(leaves[0], leaves[1], *leaves[3:], mask=leaves[2], **{"padding": 1, **geometry})
    pairs = [_pair(geometry.get(k, 1)) for k in ("stride", "padding", "dilation")]
    x, offset, mask = (t if t is None else t.contiguous(memory_format=layout) for t in (x, offset, mask))
    out = deform_conv_triton.forward(x, offset, mask, weight, bias, *pairs)
    grad = torch.linspace(-1, 1, out.numel(), device=DEVICE).view(out.shape).to(out.dtype)
    needs = (True, True, mask is not None, True)
    found = deform_conv_triton.backward(grad, x, offset, mask, weight, *pairs, needs)
    wanted = torch.autograd.grad(expected, [t for t in leaves[:4] if t is not None], grad.double())
    assert found[1].stride() == offset.stride()
    for a, b in zip([out, *(g for g in found if g is not None)], [expected.detach(), *wanted]):
        assert a.dtype == x.dtype and a.shape == b.shape
        assert (a.double() - b).abs().max() <= tolerance * b.abs().max()


@runs_kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "geometry",
    [
        {"n": 2, "c": 32},
        {"mask": False, "groups": 1, "c": 48},
        {"c": 48, "groups": 16, "kernel": 1, "padding": 0},
        {"c": 48, "groups": 2, "o": 48},
        {"stride": (2, 1), "padding": (3, 0), "dilation": (1, 2), "kernel": (2, 3)},
        {"size": (1, 1)},
    ],
    ids=str,
)
def test_equals_torchvision(geometry, dtype):
    check(
        make_inputs(dtype=dtype, **geometry),
        **{k: geometry[k] for k in ("stride", "padding", "dilation") if k in geometry},
    )


@runs_kernels
@settings(max_examples=100 if CUDA else 3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    n=st.integers(1, 3),
    sixteens=st.integers(1, 3),
    groups=st.sampled_from([1, 2, 4, 8, 16]),
    o=st.sampled_from([16, 32, 80]),
    size=st.tuples(st.integers(1, 20 if CUDA else 5), st.integers(1, 20 if CUDA else 5)),
    mask=st.booleans(),
    spread=st.sampled_from([0.0, 0.5, 20.0, 1e6]),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    seed=st.integers(0, 999),
)
def test_random_shapes(n, sixteens, groups, o, size, mask, spread, layout, seed):
    torch.manual_seed(seed)
    inputs = make_inputs(n=n, c=16 * sixteens, groups=groups, o=o, size=size, mask=mask, spread=spread)
    check(inputs, layout=layout)


@runs_kernels
def test_only_the_gradients_asked_for():
    x, offset, mask, weight, _ = make_inputs(size=(3, 5))
    grad = torch.randn(1, 16, 3, 5, device=DEVICE)
    geometry = ((1, 1),) * 3
    together = deform_conv_triton.backward(grad, x, offset, mask, weight, *geometry, (True,) * 4)
    for part in range(4):
        needs = tuple(index == part for index in range(4))
        alone = deform_conv_triton.backward(grad, x, offset, mask, weight, *geometry, needs)
        assert [g is not None for g in alone] == list(needs)
        torch.testing.assert_close(alone[part], together[part])


@runs_kernels
@pytest.mark.filterwarnings(
    "ignore:invalid value:RuntimeWarning"
)  # numpy, where the interpreter turns NaN to an integer
def test_not_a_number_stays_visible_and_local():
    x, offset, mask, weight, bias = make_inputs()
    geometry = ((1, 1),) * 3
    clean = deform_conv_triton.forward(x, offset, mask, weight, bias, *geometry)
    offset[0, 4, 3, 5] = float("nan")
    offset[0, 7, 2, 2] = float("inf")
    out = deform_conv_triton.forward(x, offset, mask, weight, bias, *geometry)
    assert out[0, :, 3, 5].isnan().all()
    out[0, :, 3, 5] = clean[0, :, 3, 5]
    assert out.isfinite().all()


@runs_kernels
def test_other_launches_give_the_same():
    x, offset, mask, weight, bias = make_inputs(c=16, o=48, size=(3, 5))
    geometry = ((1, 1),) * 3
    launch = Launch(tile_h=4, tile_w=4, outputs=16, slots=4, channels=8, warps=4, stages=2)
    usual = deform_conv_triton.forward(x, offset, mask, weight, bias, *geometry)
    torch.testing.assert_close(
        deform_conv_triton.forward(x, offset, mask, weight, bias, *geometry, launch=launch), usual
    )
    arguments = (torch.ones_like(usual), x, offset, mask, weight, *geometry, (True,) * 4)
    for a, b in zip(deform_conv_triton.backward(*arguments, launch=launch), deform_conv_triton.backward(*arguments)):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@runs_kernels
def test_empty_batch():
    x, offset, mask, weight, bias = (t[:0] if t.dim() == 4 and len(t) == 1 else t for t in make_inputs())
    geometry = ((1, 1),) * 3
    assert deform_conv_triton.forward(x, offset, mask, weight, bias, *geometry).shape == (0, 16, 5, 7)
    grad = x.new_zeros(0, 16, 5, 7)
    grads = deform_conv_triton.backward(grad, x, offset, mask, weight, *geometry, (True,) * 4)
    assert [g.shape for g in grads] == [t.shape for t in (x, offset, mask, weight)]
    assert not grads[3].any()


@pytest.mark.skipif(INTERPRETED, reason="compiles the kernels")
@pytest.mark.parametrize("kernel", ["forward", "position", "weight"])
def test_compiles_for_hopper_in_bfloat16(kernel):
    """Needs no GPU. The launches chosen at stride 4 of 800x1333 fit a multiprocessor and use what it is good at."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from fapn_d2.layers.deform_conv import cuda_kernels as kernels

    size = {"n": 2, "c": 256, "o": 256, "groups": 8, "size": (200, 336), "dtype": torch.bfloat16}
    problem = deform_conv_triton._Problem(*make_meta(**size), (1, 1), (1, 1), (1, 1))
    work = replace(problem.work, multiprocessors=132, shared_memory=232448)
    launch = {"forward": forward_launch, "position": position_launch, "weight": weight_launch}[kernel](work)
    switches = {"HAS_BIAS": True, "NEEDS_X": True, "NEEDS_OFFSET": True, "NEEDS_MASK": True}
    blocks = {name: value for name, value in launch.blocks.items() if name.isupper()}
    values = {"N": 2, **problem.sizes, **problem.constants, **blocks, **switches}
    function = getattr(kernels, f"{kernel}_kernel")
    constants, signature, attributes = {}, {}, {}
    for index, parameter in enumerate(function.params):
        if parameter.name not in values:
            signature[parameter.name] = "*fp32" if parameter.name in ("bias", "grad_x", "partial") else "*bf16"
            attributes[(index,)] = [["tt.divisibility", 16]]
        elif parameter.is_constexpr or values[parameter.name] == 1:
            signature[parameter.name], constants[parameter.name] = "constexpr", values[parameter.name]
        else:
            signature[parameter.name] = "i32"
    compiled = triton.compile(
        ASTSource(function, signature, constants, attributes),
        target=GPUTarget("cuda", 90, 32),
        options={"num_warps": launch.warps, "num_stages": launch.stages},
    )
    code = compiled.asm["ptx"]
    assert "wgmma.mma_async.sync.aligned" in code and ".bf16.bf16" in code  # tensor cores
    assert compiled.metadata.shared <= 232448
    if kernel == "position":
        assert "relaxed.add.v4.f32" in code  # four atomic additions at a time
    else:
        assert "cp.async" in code  # samples are on their way while others are multiplied


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_on_cuda_runs_the_kernels(dtype):
    inputs = [t.requires_grad_() for t in make_inputs(c=256, o=256, groups=8, size=(40, 56))]
    with torch.profiler.profile() as profile, torch.autocast("cuda", dtype=dtype):
        out = modulated_deform_conv2d(*inputs)
        out.float().square().sum().backward()
    names = " ".join(event.key for event in profile.key_averages())
    assert all(name in names for name in ("forward_kernel", "position_kernel", "weight_kernel"))
    assert "torchvision" not in names
    exact = modulated_deform_conv2d(*(t.detach().double() for t in inputs))
    assert out.dtype == dtype and (out.double() - exact).abs().max() < 2 * TOLERANCES[dtype] * exact.abs().max()
    assert all(t.grad.isfinite().all() and t.grad.dtype == torch.float32 for t in inputs)


@pytest.mark.gpu
def test_tf32_is_used_where_it_is_allowed_only():
    inputs = make_inputs(c=256, o=256, groups=8, size=(32, 32))
    exact = modulated_deform_conv2d(*(t.double() for t in inputs))
    precision = torch.backends.cuda.matmul.fp32_precision
    errors = {}
    try:
        for name in ("ieee", "tf32"):
            torch.backends.cuda.matmul.fp32_precision = name
            errors[name] = ((modulated_deform_conv2d(*inputs) - exact).abs().max() / exact.abs().max()).item()
    finally:
        torch.backends.cuda.matmul.fp32_precision = precision
    assert errors["ieee"] < 2e-6 < errors["tf32"] < 2e-3


@pytest.mark.gpu
def test_compiles_without_a_break_and_replays_from_a_graph():
    inputs = make_inputs(c=64, o=64, groups=8, size=(20, 24), dtype=torch.bfloat16)
    expected = modulated_deform_conv2d(*inputs)
    torch.testing.assert_close(torch.compile(modulated_deform_conv2d, fullgraph=True)(*inputs), expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = modulated_deform_conv2d(*inputs)
    inputs[0].mul_(2)
    graph.replay()
    torch.testing.assert_close(out, modulated_deform_conv2d(*inputs))


def test_deterministic_mode_is_respected():
    x, offset, mask, weight, _ = make_inputs()
    arguments = (torch.ones(1, 16, 5, 7, device=DEVICE), x, offset, mask, weight, *((1, 1),) * 3, (True,) * 4)
    deform_conv_triton.alert_not_deterministic("fapn_d2::modulated_deform_conv2d")  # says nothing by default
    try:
        torch.use_deterministic_algorithms(True)
        with pytest.raises(RuntimeError, match="no deterministic gradient of its input on CUDA"):
            deform_conv_triton.backward(*arguments)
        torch.use_deterministic_algorithms(True, warn_only=True)
        with pytest.warns(UserWarning, match="no deterministic gradient of its input on CUDA"):
            deform_conv_triton.alert_not_deterministic("fapn_d2::modulated_deform_conv2d")
    finally:
        torch.use_deterministic_algorithms(False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        deform_conv_triton.alert_not_deterministic("fapn_d2::modulated_deform_conv2d")


def tensor_like(c=32, dtype=torch.float32, cuda=True):
    device = SimpleNamespace(type="cuda" if cuda else "mps")
    return SimpleNamespace(is_cuda=cuda, device=device, dtype=dtype, shape=(1, c, 8, 8))


def test_what_the_kernels_cannot_do_is_said(monkeypatch):
    weight = SimpleNamespace(shape=(16, 32, 3, 3))
    monkeypatch.setattr(triton_support, "capability", lambda device: (9, 0))
    assert deform_conv_triton.unsupported(tensor_like(), weight) == ""
    assert deform_conv_triton.unsupported(tensor_like(cuda=False), weight) == "the kernels are for CUDA, not mps"
    assert "for float32, bfloat16, float16, not torch.float64" in deform_conv_triton.unsupported(
        tensor_like(dtype=torch.float64), weight
    )
    assert "multiples of 16, not 24 in and 16 out" in deform_conv_triton.unsupported(tensor_like(c=24), weight)
    monkeypatch.setattr(triton_support, "capability", lambda device: (7, 5))
    assert "compute capability 8.0" in deform_conv_triton.unsupported(tensor_like(), weight)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "the kernels need a C compiler" in deform_conv_triton.unsupported(tensor_like(), weight)
    monkeypatch.setattr("fapn_d2.layers.triton_support.find_spec", lambda name: None)
    assert deform_conv_triton.unsupported(tensor_like(), weight) == "the kernels need the package triton"
