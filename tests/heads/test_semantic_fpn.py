"""The semantic branch of Panoptic FPN: Detectron2's results, a slow reference for every variant, sizes, errors."""

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch import build_sem_seg_head
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from torch.nn import functional as F

from fapn_d2 import add_fapn_config
from fapn_d2.heads import SemanticFPNHead

LEVELS = {"p2": 4, "p3": 8, "p4": 16, "p5": 32}


def shapes(channels):
    return {name: ShapeSpec(channels=channels, stride=stride) for name, stride in LEVELS.items()}


def head(kind=SemanticFPNHead, *, inputs=6, classes=3, width=32, norm="GN", **options):
    torch.manual_seed(0)
    made = kind(
        shapes(inputs), num_classes=classes, conv_dims=width, common_stride=4, norm=norm, ignore_value=255, **options
    )
    for parameter in made.parameters():  # scales and biases too
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def maps(channels=6, batch=2, size=(64, 96)):
    torch.manual_seed(1)
    return {name: torch.randn(batch, channels, size[0] // s, size[1] // s) for name, s in LEVELS.items()}


def bilinear_matrix(old, factor):
    """(new,old): each row holds the weights of a new pixel; centres outside the old ones take the border's value."""
    matrix = np.zeros((old * factor, old))
    for new in range(old * factor):
        centre = min(max((new + 0.5) / factor - 0.5, 0), old - 1)
        first = min(int(centre), old - 2) if old > 1 else 0
        matrix[new, first] += 1 - (centre - first)
        if old > 1:
            matrix[new, first + 1] += centre - first
    return matrix


def grow(x, factor):
    return np.einsum("ah,nchw,bw->ncab", bilinear_matrix(x.shape[2], factor), x, bilinear_matrix(x.shape[3], factor))


def conv3x3(x, weight, bias):
    h, w = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    out = sum(
        np.einsum("nchw,dc->ndhw", padded[:, :, i : i + h, j : j + w], weight[:, :, i, j])
        for i in range(3)
        for j in range(3)
    )
    return out if bias is None else out + bias[:, None, None]


def group_norm(x, groups, scale, shift):
    grouped = x.reshape(len(x), groups, -1)
    centred = grouped - grouped.mean(-1, keepdims=True)
    normed = (centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)).reshape(x.shape)
    return normed * scale[:, None, None] + shift[:, None, None]


def reference(state, features, *, upsampling, join, norm):
    """Logits at stride 4 in double precision, written from the paper's Section 3.1 and Figure 3."""
    state = {name: value.double().numpy() for name, value in state.items()}
    levels = []
    for name, stride in LEVELS.items():
        x = features[name].double().numpy()
        doublings = int(np.log2(stride // 4))
        convs = range(2) if upsampling == "once" else range(max(doublings, 1))
        for k in convs:
            # Detectron2 counts the resampling steps between the convolutions too.
            layer = f"{name}.{k if upsampling == 'once' or stride == 4 else 2 * k}"
            x = conv3x3(x, state[f"{layer}.weight"], state.get(f"{layer}.bias"))
            if norm:
                x = group_norm(x, 32, state[f"{layer}.norm.weight"], state[f"{layer}.norm.bias"])
            x = np.maximum(x, 0)
            if upsampling == "steps" and stride > 4:
                x = grow(x, 2)
        levels.append(grow(x, stride // 4) if upsampling == "once" else x)
    y = sum(levels) if join == "sum" else np.concatenate(levels, 1)
    return np.einsum("nchw,kc->nkhw", y, state["predictor.weight"][:, :, 0, 0]) + state["predictor.bias"][:, None, None]


def test_the_defaults_are_detectron2s_head_bit_for_bit():
    ours, theirs = head(), head(SemSegFPNHead)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict(), strict=True)
    features, targets = maps(), torch.randint(0, 3, (2, 64, 96))
    targets[:, :8] = 255
    assert torch.equal(ours(features, targets)[1]["loss_sem_seg"], theirs(features, targets)[1]["loss_sem_seg"])
    assert torch.equal(ours.eval()(features)[0], theirs.eval()(features)[0])


@pytest.mark.parametrize("norm", ["GN", ""])
@pytest.mark.parametrize("join", ["sum", "concat"])
@pytest.mark.parametrize("upsampling", ["steps", "once"])
def test_against_a_slow_reference(upsampling, join, norm):
    made, features = head(norm=norm, upsampling=upsampling, join=join), maps(batch=1)
    expected = reference(made.state_dict(), features, upsampling=upsampling, join=join, norm=norm)
    np.testing.assert_allclose(made.layers(features).detach().numpy(), expected, rtol=1e-3, atol=1e-3)
    logits, losses = made.eval()(features)
    assert losses == {} and logits.shape == (1, 3, 64, 96)
    np.testing.assert_allclose(logits.detach().numpy(), grow(expected, 4), rtol=1e-3, atol=1e-3)


def test_the_loss_is_the_mean_over_labelled_pixels_at_full_size():
    made, features = head(join="concat", loss_weight=0.5), maps(batch=2)
    targets = torch.randint(0, 3, (2, 64, 96))
    targets[0, :, :40] = 255
    logits = grow(made.layers(features).double().detach().numpy(), 4)
    logits -= logits.max(1, keepdims=True)
    log_probability = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    chosen = [log_probability[n, targets[n, y, x], y, x] for n, y, x in np.argwhere(targets.numpy() != 255)]
    loss = made(features, targets)[1]["loss_sem_seg"]
    assert loss.item() == pytest.approx(-0.5 * np.mean(chosen), rel=1e-4)


def test_by_hand():
    """Convolutions that copy their input, two levels, one channel: max(x, 0) of P2 and half of P3's."""
    two = {"p2": ShapeSpec(channels=1, stride=4), "p3": ShapeSpec(channels=1, stride=8)}
    made = SemanticFPNHead(two, num_classes=1, conv_dims=1, common_stride=4, norm="", upsampling="once", join="concat")
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.zero_()
            if name.endswith("weight") and name != "predictor.weight":
                parameter[0, 0, 1, 1] = 1
        made.predictor.weight[0, :, 0, 0] = torch.tensor([1.0, 0.5])
    p2, p3 = torch.tensor([[[[1.0, -2.0, 3.0, 4.0]]]]), torch.tensor([[[[8.0, 16.0]]]])
    # P3 upsampled: 8, 10, 14, 16 in every row
    logits = made.layers({"p2": p2.expand(1, 1, 2, 4), "p3": p3})
    assert logits.tolist() == [[[[5.0, 5.0, 10.0, 12.0]] * 2]]


@pytest.mark.parametrize("join", ["sum", "concat"])
def test_a_group_of_the_channels(join):
    """As if the maps had only these channels; the others get no gradient from the branch."""
    group, alone = head(inputs=10, channels=(4, 10), join=join), head(inputs=6, join=join)
    alone.load_state_dict(group.state_dict(), strict=True)
    features = {name: x.requires_grad_() for name, x in maps(10).items()}
    logits = group.layers(features)
    assert torch.equal(logits, alone.layers({name: x[:, 4:] for name, x in features.items()}))
    logits.square().sum().backward()
    assert all(not x.grad[:, :4].any() and x.grad[:, 4:].any() for x in features.values())


@pytest.mark.parametrize("upsampling", ["steps", "once"])
def test_every_parameter_gets_a_gradient_in_low_precision(upsampling):
    made = head(upsampling=upsampling, join="concat")
    targets = torch.randint(0, 3, (1, 64, 64))
    with torch.autocast("cpu", torch.bfloat16):
        loss = made(maps(batch=1, size=(64, 64)), targets)[1]["loss_sem_seg"]
    assert loss.dtype == torch.float32
    loss.backward()
    assert not [name for name, p in made.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert all(p.grad.any() for p in made.parameters())


# Panoptic FPN's sizes: 256 channels in, w wide, C classes. The early version has no norm, but biases.
@pytest.mark.parametrize(
    ("options", "width", "classes", "parameters"),
    [
        ({}, 128, 54, 1_630_774),
        ({}, 128, 19, 1_626_259),
        ({}, 64, 54, 704_822),
        ({}, 64, 19, 702_547),
        ({}, 256, 54, 4_146_230),
        ({}, 256, 19, 4_137_235),
        ({"join": "concat"}, 128, 54, 1_651_510),
        ({"join": "concat"}, 128, 19, 1_633_555),
        ({"join": "concat", "upsampling": "once", "norm": ""}, 128, 92, 1_817_692),
        ({"channels": (128, 256)}, 128, 54, 1_040_950),
        ({"channels": (128, 256)}, 128, 19, 1_036_435),
    ],
)
def test_numbers_of_parameters(options, width, classes, parameters):
    with torch.device("meta"):
        made = SemanticFPNHead(
            shapes(256), num_classes=classes, conv_dims=width, common_stride=4, **({"norm": "GN"} | options)
        )
    assert sum(p.numel() for p in made.parameters()) == parameters


def config(**keys):
    cfg = get_cfg()
    add_fapn_config(cfg)
    for key, value in ({"NAME": "SemanticFPNHead", "CONVS_DIM": 32, "NUM_CLASSES": 3} | keys).items():
        cfg.MODEL.SEM_SEG_HEAD[key] = value
    return cfg


def test_from_the_config():
    cfg = config(JOIN="concat", UPSAMPLING="once", CHANNELS=[2, 6], NORM="")
    made = build_sem_seg_head(cfg, shapes(6) | {"p6": ShapeSpec(channels=6, stride=64)})
    assert (made.join, made.channels, made.in_features) == ("concat", slice(2, 6), list(LEVELS))
    assert made.predictor.weight.shape == (3, 4 * 32, 1, 1)
    assert {name: p.shape[1] for name, p in made.p5.named_parameters() if p.dim() == 4} == {
        "0.weight": 4,
        "1.weight": 32,
    }
    plain = build_sem_seg_head(config(), shapes(6))
    assert (plain.join, plain.channels, len(plain.p5)) == ("sum", None, 6)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"JOIN": "add"}, "MODEL.SEM_SEG_HEAD.JOIN: unknown 'add'; allowed: sum, concat"),
        ({"UPSAMPLING": "twice"}, "MODEL.SEM_SEG_HEAD.UPSAMPLING: unknown 'twice'; allowed: steps, once"),
        ({"CHANNELS": [3, 9]}, r"CHANNELS = \[3, 9\]: must be \[first, one past the last\] of the 6 channels of 'p2'"),
        ({"CHANNELS": [3]}, r"CHANNELS = \[3\]: must be"),
        ({"IN_FEATURES": ["p2", "p9"]}, r"IN_FEATURES = \['p2', 'p9'\]: the backbone gives .*, not \['p9'\]"),
    ],
)
def test_errors(keys, message):
    with pytest.raises(ValueError, match=message):
        build_sem_seg_head(config(**keys), shapes(6))


def test_the_logits_have_the_size_of_the_padded_images():
    made = head(upsampling="once").eval()
    for height, width in ((64, 32), (96, 160)):
        logits, _ = made(maps(batch=1, size=(height, width)))
        assert logits.shape[-2:] == (height, width) and F.softmax(logits, 1).isfinite().all()
