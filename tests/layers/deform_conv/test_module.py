"""Modulated deformable convolution: by hand, and against torchvision in float64."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from fapn_d2.layers.deform_conv import cpu as deform_conv_cpu
from fapn_d2.layers.deform_conv.module import ModulatedDeformConv2d, modulated_deform_conv2d

from .inputs import make_inputs, never_small, reference, with_gradients


def test_by_hand():
    x = torch.tensor([[0.0, 1.0, 2.0], [4.0, 8.0, 16.0]]).view(1, 1, 2, 3)
    offset = torch.zeros(1, 2, 2, 3)
    offset[0, :, 0, 0] = torch.tensor([0.25, 0.5])  # between 0, 1, 4, 8: 0.75 * 0.5 + 0.25 * 6
    offset[0, :, 0, 1] = torch.tensor([1.0, 1.0])  # on 16
    offset[0, :, 0, 2] = torch.tensor([-0.5, 0.0])  # half of 2, the other half is outside
    offset[0, :, 1, 0] = torch.tensor([0.0, -1.0])  # outside
    mask = torch.tensor([[1.0, 0.5, 1.0], [1.0, 2.0, 0.0]]).view(1, 1, 2, 3)
    out = modulated_deform_conv2d(x, offset, mask, torch.full((1, 1, 1, 1), 10.0), torch.tensor([1.0]), padding=0)
    assert out.flatten().tolist() == [19.75, 81.0, 11.0, 1.0, 161.0, 1.0]


@pytest.mark.usefixtures("no_small")
@pytest.mark.parametrize(
    "geometry",
    [
        {},
        {"mask": False},
        {"groups": 1, "c": 3},
        {"groups": 8},
        {"kernel": 1, "padding": 0},
        {"stride": (2, 1), "padding": (3, 0), "dilation": (1, 2), "kernel": (2, 3)},
        {"size": (1, 1), "n": 5},
        {"stride": 2, "size": (10, 7), "n": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("pieces", [(2_000, 20), (2**24, 10**6)], ids=str)
@pytest.mark.parametrize("threads", [1, 2, 7], indirect=True)
@pytest.mark.usefixtures("threads")
def test_equals_torchvision(geometry, pieces, monkeypatch):
    monkeypatch.setattr(deform_conv_cpu, "PIECE_FORWARD", pieces[0])
    monkeypatch.setattr(deform_conv_cpu, "PIECE_BACKWARD", pieces[1])
    inputs = make_inputs(**geometry)
    options = {k: geometry.get(k, 1) for k in ("stride", "padding", "dilation")}
    ours = with_gradients(lambda *t: modulated_deform_conv2d(*t, **options), inputs)
    theirs = with_gradients(lambda *t: reference(*t, **options), inputs)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 3),
    group=st.integers(1, 4),
    groups=st.integers(1, 4),
    o=st.integers(1, 5),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    mask=st.booleans(),
    spread=st.sampled_from([0.0, 0.5, 20.0, 1e6]),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    seed=st.integers(0, 999),
)
def test_random_shapes(n, group, groups, o, size, mask, spread, kernel, seed, **geometry):
    torch.manual_seed(seed)
    assume(all(size[i] + 2 * geometry["padding"][i] > geometry["dilation"][i] * (kernel[i] - 1) for i in (0, 1)))
    inputs = make_inputs(n, group * groups, o, size, groups, kernel, mask, spread=spread, **geometry)
    with pytest.MonkeyPatch.context() as patch:
        never_small(patch)
        ours = with_gradients(partial(modulated_deform_conv2d, **geometry), inputs)
    if n == 0:  # torchvision refuses an empty batch
        assert ours[0].shape == (0, o, *inputs[1].shape[2:])
        assert all(not g.any() for g in ours[1:])
        return
    for a, b in zip(ours, with_gradients(partial(reference, **geometry), inputs)):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("no_small")
def test_gradcheck():
    x, offset, mask, weight, bias = make_inputs(n=1, c=4, o=2, size=(3, 4), groups=2)
    offset = offset.clamp(-3, 3).floor() + torch.rand_like(offset) * 0.6 + 0.2  # the derivative jumps at whole pixels
    inputs = [t.requires_grad_() for t in (x, offset, mask, weight, bias)]
    assert torch.autograd.gradcheck(modulated_deform_conv2d, inputs)


@pytest.mark.parametrize("mask", [True, False])
def test_small_maps_agree_with_large_ones(mask, monkeypatch):
    inputs = make_inputs(mask=mask, stride=2, size=(5, 6))
    call = partial(modulated_deform_conv2d, stride=2)
    assert deform_conv_cpu.is_small(inputs[0], inputs[1], inputs[3], backward=True)
    small = with_gradients(call, inputs)
    never_small(monkeypatch)
    for a, b in zip(with_gradients(call, inputs), small):
        torch.testing.assert_close(a, b)


@pytest.mark.usefixtures("no_small")
def test_only_the_gradients_asked_for():
    inputs = make_inputs()
    full = with_gradients(modulated_deform_conv2d, inputs)[1:]
    for index in range(5):
        leaves = [t.detach().clone().requires_grad_(i == index) for i, t in enumerate(inputs)]
        out = modulated_deform_conv2d(*leaves)
        grad = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
        torch.testing.assert_close(torch.autograd.grad(out, leaves[index], grad)[0], full[index])


@pytest.mark.usefixtures("no_small")
def test_not_a_number_stays_visible_and_local():
    x, offset, mask, weight, bias = make_inputs(dtype=torch.float32)
    clean = modulated_deform_conv2d(x, offset, mask, weight, bias)
    offset[0, 4, 3, 5] = math.nan
    offset[1, 7, 2, 2] = math.inf
    out = modulated_deform_conv2d(x, offset, mask, weight, bias)
    assert out[0, :, 3, 5].isnan().all()
    out[0, :, 3, 5] = clean[0, :, 3, 5]
    assert out.isfinite().all()


@pytest.mark.usefixtures("no_small", "threads")
@pytest.mark.parametrize("threads", [1], indirect=True)  # modes do not see what other threads make
def test_no_ninefold_buffer():
    """The columns of the whole map would be 9 times the input; nothing larger than 1.5 times it is made."""
    x, offset, mask, weight, bias = make_inputs(n=1, c=64, o=64, size=(96, 96), groups=2, dtype=torch.float32)

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for t in torch.utils._pytree.tree_leaves(out):
                if isinstance(t, torch.Tensor):
                    self.numel = max(self.numel, t.untyped_storage().nbytes() // 4)
            return out

    geometry = ((1, 1),) * 3
    with pytest.MonkeyPatch.context() as patch, Largest() as largest:
        patch.setattr(deform_conv_cpu, "PIECE_FORWARD", 2**20)
        patch.setattr(deform_conv_cpu, "PIECE_BACKWARD", 2**13)
        deform_conv_cpu.forward(x, offset, mask, weight, bias, *geometry)
        deform_conv_cpu.backward(x, x, offset, mask, weight, *geometry, (True,) * 4)
    assert x.numel() <= largest.numel < 1.5 * x.numel()


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("deterministic", "threads")
@pytest.mark.parametrize("threads", [2, 12], indirect=True)
@pytest.mark.parametrize("small", [False, True])
def test_deterministic_on_the_cpu(small, monkeypatch):
    """Ours for large maps, torchvision's for small ones: the same bits whichever thread comes first."""
    if not small:
        never_small(monkeypatch)
    inputs = make_inputs(c=8 if small else 32, size=(5, 5) if small else (40, 40), dtype=torch.float32)
    assert deform_conv_cpu.is_small(inputs[0], inputs[1], inputs[3], backward=True) == small
    first, *others = (with_gradients(modulated_deform_conv2d, inputs) for _ in range(4))
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other))


@pytest.mark.usefixtures("no_small")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_layout_follows_the_input(layout):
    x, offset, mask, weight, bias = make_inputs(dtype=torch.float32)
    plain = with_gradients(modulated_deform_conv2d, (x, offset, mask, weight, bias))
    laid_out = [t if t.dim() < 4 else t.contiguous(memory_format=layout) for t in (x, offset, mask, weight, bias)]
    found = with_gradients(modulated_deform_conv2d, laid_out)
    assert found[0].is_contiguous(memory_format=layout) and found[1].is_contiguous(memory_format=layout)
    for a, b in zip(found, plain):
        torch.testing.assert_close(a, b)


def test_module():
    layer = ModulatedDeformConv2d(256, 64, offset_groups=8)
    assert layer.offset_channels == 144
    bound = 1 / math.sqrt(256 * 9)
    assert 0.99 * bound < layer.weight.abs().max() <= bound and layer.weight.mean().abs() < 1e-3
    assert not layer.bias.any()
    assert "offset_groups=8" in repr(layer)
    assert ModulatedDeformConv2d(4, 4, bias=False).bias is None

    x = torch.randn(2, 256, 5, 7)
    out = layer(x, torch.zeros(2, 144, 5, 7), torch.full((2, 72, 5, 7), 0.5))
    torch.testing.assert_close(out, 0.5 * F.conv2d(x, layer.weight, padding=1), rtol=1e-4, atol=1e-5)


def test_errors_name_the_argument():
    x, offset, mask, weight, bias = make_inputs(dtype=torch.float32)
    call = modulated_deform_conv2d
    with pytest.raises(ValueError, match=r"x has shape \(8, 9, 11\), expected four dimensions"):
        call(x[0], offset, mask, weight, bias)
    with pytest.raises(ValueError, match=r"weight has shape \(6, 4, 3, 3\), expected \(6, 8, 3, 3\)"):
        call(x, offset, mask, weight[:, :4], bias)
    with pytest.raises(ValueError, match=r"offset has shape \(2, 71, 9, 11\), expected \(2, 54, 9, 11\).*2 x 9 taps"):
        call(x, offset[:, :-1], mask, weight, bias)
    with pytest.raises(
        ValueError, match=r"offset has shape \(2, 72, 9, 11\), expected \(2, 72, 7, 9\).*padding \(0, 0\)"
    ):
        call(x, offset, mask, weight, bias, padding=0)
    with pytest.raises(ValueError, match=r"mask has shape \(2, 35, 9, 11\), expected \(2, 36, 9, 11\)"):
        call(x, offset, mask[:, 1:], weight, bias)
    with pytest.raises(ValueError, match=r"bias has shape \(5,\), expected \(6,\)"):
        call(x, offset, mask, weight, bias[1:])
    with pytest.raises(ValueError, match=r"the 3 groups of offset .* must divide the 8 channels"):
        call(x, offset[:, :54], None, weight, bias)
    with pytest.raises(ValueError, match="offset_groups 3 must divide the 8 input channels"):
        ModulatedDeformConv2d(8, 8, offset_groups=3)
    with pytest.raises(ValueError, match=r"4 offset groups and kernel .* need 72 channels"):
        ModulatedDeformConv2d(8, 6, offset_groups=4)(x, offset[:, :36], None)
