"""The deformable convolution as an operator of PyTorch: precisions, backends, contract, compilation, export."""

import importlib.util
from functools import partial

import pytest
import torch

from fapn_d2.layers.deform_conv import backend as deform_conv_backend
from fapn_d2.layers.deform_conv import torchvision_op as deform_conv_torchvision
from fapn_d2.layers.deform_conv.backend import set_backend
from fapn_d2.layers.deform_conv.module import ModulatedDeformConv2d, modulated_deform_conv2d
from fapn_d2.layers.deform_conv.operator import operator

from ..interpreter import output_in_the_interpreter
from .inputs import make_inputs, reference, with_gradients


@pytest.mark.parametrize("backend", ["auto", "torchvision"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(backend, dtype):
    """Autocast rounds x, weight and bias (8 or 11 bits), as for a convolution, but neither offset nor mask."""
    inputs = make_inputs(dtype=torch.float32, spread=100.0, size=(40, 40))
    exact = modulated_deform_conv2d(*(t.double() for t in inputs))
    previous = set_backend(backend)
    try:
        with torch.autocast("cpu", dtype=dtype):
            out, *grads = with_gradients(modulated_deform_conv2d, inputs)
    finally:
        set_backend(previous)
    assert out.dtype == dtype
    assert all(g.dtype == torch.float32 for g in grads)
    # 72 products of about 1 each; the coarsest rounding is that of bfloat16, 2^-9 relative.
    assert (out.double() - exact).abs().max() < 0.03 * exact.abs().max()
    with torch.autocast("cpu", dtype=dtype):
        assert modulated_deform_conv2d(*(t.double() for t in inputs)).dtype == torch.float64


def test_half_precision_without_autocast():
    inputs = [t.bfloat16() for t in make_inputs(dtype=torch.float32, spread=1.0)]
    out = modulated_deform_conv2d(*inputs)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(
        out.float(), modulated_deform_conv2d(*(t.float() for t in inputs)), rtol=2**-8, atol=1e-2
    )


def test_backend_is_a_choice():
    inputs = make_inputs(dtype=torch.float32)
    assert set_backend("torchvision") == "auto"
    try:
        torch.testing.assert_close(modulated_deform_conv2d(*inputs), reference(*inputs), rtol=0, atol=0)
        names = recorded_operators(lambda: modulated_deform_conv2d(*inputs))
        assert "torchvision::deform_conv2d" in names and "fapn_d2::modulated_deform_conv2d" not in names
    finally:
        assert set_backend("auto") == "torchvision"
    assert "fapn_d2::modulated_deform_conv2d" in recorded_operators(lambda: modulated_deform_conv2d(*inputs))
    with pytest.raises(ValueError, match=r"unknown backend 'mmcv' .* choose one of auto, torchvision, triton"):
        set_backend("mmcv")
    assert deform_conv_backend.get_backend() == "auto"


def test_a_module_may_choose_for_itself():
    inputs = make_inputs(dtype=torch.float32)
    x, offset, mask, weight, _ = inputs
    assert "torchvision::deform_conv2d" in recorded_operators(
        lambda: modulated_deform_conv2d(*inputs, backend="torchvision")
    )
    layer = ModulatedDeformConv2d(x.shape[1], len(weight), offset_groups=offset.shape[1] // 18, backend="auto")
    set_backend("torchvision")
    try:
        assert "fapn_d2::modulated_deform_conv2d" in recorded_operators(lambda: layer(x, offset, mask))
    finally:
        set_backend("auto")
    assert modulated_deform_conv2d(*inputs, backend="triton").isfinite().all()  # the CPU has kernels of its own
    elsewhere = [t if t is None else t.to("meta") for t in inputs]
    with pytest.raises(ValueError, match=r'backend "triton" .* cannot be used: the kernels are for CUDA'):
        modulated_deform_conv2d(*elsewhere, backend="triton")
    for refused in (partial(modulated_deform_conv2d, *inputs), partial(ModulatedDeformConv2d, 4, 4)):
        with pytest.raises(
            ValueError, match=r"backend: unknown backend 'mmcv' .* choose one of auto, torchvision, triton"
        ):
            refused(backend="mmcv")


def test_onnx_sees_an_operator_that_it_knows(monkeypatch):
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    inputs = make_inputs(dtype=torch.float32)
    names = recorded_operators(lambda: modulated_deform_conv2d(*inputs))
    assert "torchvision::deform_conv2d" in names and "fapn_d2::modulated_deform_conv2d" not in names


def test_environment_chooses_the_backend(monkeypatch):
    def fresh(value):
        monkeypatch.setenv("FAPN_DEFORM_CONV", value)
        spec = importlib.util.spec_from_file_location(
            "fapn_d2.layers.deform_conv.fresh_backend", deform_conv_backend.__file__
        )
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.get_backend()

    assert fresh("torchvision") == "torchvision"
    with pytest.raises(ValueError, match="FAPN_DEFORM_CONV: unknown backend 'fast'"):
        fresh("fast")


def test_falls_back_and_says_so_once(caplog):
    """Tensors on another device than CPU and CUDA stand for all that the kernels cannot do."""
    x, offset, _, weight, _ = (t if t is None else t.to("meta") for t in make_inputs())
    deform_conv_backend._say_once.cache_clear()
    for _ in range(2):
        assert deform_conv_backend.implementation(x, offset, weight, backward=False) is deform_conv_torchvision
    (said,) = (r.getMessage() for r in caplog.records)
    assert said.startswith("deformable convolution falls back") and said.endswith("the kernels are for CUDA, not meta")
    set_backend("triton")
    try:
        with pytest.raises(ValueError, match=r'backend "triton" .* cannot be used: the kernels are for CUDA'):
            deform_conv_backend.implementation(x, offset, weight, backward=False)
    finally:
        set_backend("auto")


def recorded_operators(function) -> set[str]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function()
    return {event.key for event in profile.key_averages()}


@pytest.mark.usefixtures("no_small")
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_operator_contract(mask, layout):
    inputs = [t if t is None else t.requires_grad_() for t in make_inputs(dtype=torch.float32, mask=mask)]
    inputs[0] = inputs[0].detach().contiguous(memory_format=layout).requires_grad_()
    torch.library.opcheck(operator, (*inputs, [1, 1], [1, 1], [1, 1]))


def test_meta_and_compile_and_export():
    inputs = make_inputs(dtype=torch.float32)
    expected = modulated_deform_conv2d(*inputs)
    assert modulated_deform_conv2d(*(t.to("meta") for t in inputs)).shape == expected.shape

    compiled = torch.compile(modulated_deform_conv2d, backend="aot_eager", fullgraph=True)
    for a, b in zip(with_gradients(compiled, inputs), with_gradients(modulated_deform_conv2d, inputs)):
        torch.testing.assert_close(a, b)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert compiled(*inputs).dtype == torch.bfloat16

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.offset, self.conv = torch.nn.Conv2d(8, 36, 3, padding=1), ModulatedDeformConv2d(8, 4, offset_groups=2)

        def forward(self, x):
            return self.conv(x, self.offset(x), None)

    layer = Layer().eval()
    n, h, w = (torch.export.Dim(name, min=2, max=512) for name in "nhw")
    program = torch.export.export(layer, (torch.randn(2, 8, 9, 12),), dynamic_shapes=({0: n, 2: h, 3: w},))
    assert any("modulated_deform_conv2d" in str(node.target) for node in program.graph.nodes)
    x = torch.randn(3, 8, 17, 10)
    torch.testing.assert_close(program.module()(x), layer(x))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the same tests run on the GPU themselves")
def test_triton_kernels_in_the_interpreter():
    output = output_in_the_interpreter("deform_conv/test_cuda.py")
    assert "test_equals_torchvision" not in output, output[-4000:]
