"""The head against the official modules' arrays, and its parts by hand."""

import math

import pytest
import torch
from detectron2.layers import ShapeSpec

from fapn_d2.checkpoint.keys.maskformer import maskformer_state_to_official
from fapn_d2.heads.mask_former import MaskFormerHead
from fapn_d2.layers.transformer import Transformer, sine_positions

from .arrays import below, head_config, head_with_weights, load

HEADS = ("head_fpn", "head_fapn")


def close(ours, theirs, tolerance=1e-9):
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", HEADS)
def test_predictions_are_those_of_the_official_head(reference, name):
    meta, arrays = load(reference, name)
    head = head_with_weights(meta, arrays)
    features = below(arrays, "in/")
    close(head.pixel_decoder(features), arrays["out64/mask_features"])
    close(head.predictor.states(features["res5"]), arrays["out64/hs"])
    logits, masks = head(features)
    assert logits.shape[0] == masks.shape[0] == meta["dec_layers"]
    for layer, place in enumerate(("out64/aux0/", "out64/aux1/", "out64/")):
        close(logits[layer], arrays[place + "pred_logits"])
        close(masks[layer], arrays[place + "pred_masks"])
    last_logits, last_masks = head(features, last_only=True)
    close(last_logits, logits[-1:])
    close(last_masks, masks[-1:])


@pytest.mark.parametrize("name", HEADS)
def test_gradients_are_those_of_the_official_head(reference, name):
    meta, arrays = load(reference, name)
    head = head_with_weights(meta, arrays)
    features = {key: value.requires_grad_() for key, value in below(arrays, "in/").items()}
    logits, masks = head(features)
    loss = 0
    for layer, place in enumerate(("cot/aux0/", "cot/aux1/", "cot/")):
        loss = loss + (logits[layer] * arrays[place + "pred_logits"]).sum()
        loss = loss + (masks[layer] * arrays[place + "pred_masks"]).sum()
    close(loss, arrays["out64/loss"])
    loss.backward()
    for key in ("res3", "res5"):
        close(features[key].grad, arrays[f"grad64/in/{key}"])
    ours = {f"sem_seg_head.{n}": p.grad for n, p in head.named_parameters()}
    official = below(maskformer_state_to_official(ours), "sem_seg_head.")
    gradients = below(arrays, "grad64/sd/")
    assert len(gradients) > 20
    for key, gradient in gradients.items():
        close(official[key], gradient)


@pytest.mark.parametrize("name", HEADS)
def test_float32_is_close(reference, name):
    meta, arrays = load(reference, name)
    head = head_with_weights(meta, arrays).float()
    logits, masks = head({key: value.float() for key, value in below(arrays, "in/").items()})
    torch.testing.assert_close(logits[-1].double(), arrays["out64/pred_logits"], rtol=0, atol=5e-5)
    torch.testing.assert_close(masks[-1].double(), arrays["out64/pred_masks"], rtol=0, atol=5e-5)


def test_positions_are_the_official_ones(reference):
    _, arrays = load(reference, "head_fpn")
    torch.testing.assert_close(sine_positions(2, 3, 32), arrays["out64/pos"], rtol=0, atol=1e-6)


def test_positions_by_hand():
    positions = sine_positions(2, 3, 8)[0]
    assert positions.shape == (8, 2, 3) and positions.dtype == torch.float32
    y, x = math.pi, 2 * math.pi * 2 / 3  # first of two rows, second of three columns
    expected = [f(v / t) for v in (y, x) for t in (1, 100) for f in (math.sin, math.cos)]
    torch.testing.assert_close(positions[:, 0, 1], torch.tensor(expected), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="multiple of 4"):
        sine_positions(2, 2, 6)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_encoder_layers_and_norms_before_branches(pre_norm):
    transformer = Transformer(16, heads=2, hidden=8, dropout=0.0, encoder_layers=2, decoder_layers=3, pre_norm=pre_norm)
    states = transformer(torch.randn(2, 16, 3, 5), sine_positions(3, 5, 16), torch.randn(4, 16))
    assert [s.shape for s in states] == [(2, 4, 16)] * 3
    sum(s.sum() * (i + 1) for i, s in enumerate(states)).backward()
    assert all(p.grad is not None for p in transformer.parameters())
    assert (transformer.encoder.norm is not None) == pre_norm
    # every state is normalised
    torch.testing.assert_close(states[0].mean(-1), torch.zeros(2, 4), rtol=0, atol=1e-5)


SMALL = {
    "conv_dim": 32,
    "mask_dim": 8,
    "norm": "GN",
    "num_classes": 3,
    "pixel_decoder": "fpn",
    "hidden_dim": 16,
    "num_queries": 4,
    "nheads": 2,
    "dim_feedforward": 8,
    "dec_layers": 2,
}


def small(**changes):
    cfg = head_config(SMALL)
    cfg.merge_from_list([part for pair in changes.items() for part in pair])
    shapes = {f"res{i}": ShapeSpec(channels=8 * i, stride=2**i) for i in (2, 3, 4, 5)}
    features = {f"res{i}": torch.randn(2, 8 * i, -(-36 // 2**i), -(-44 // 2**i)) for i in (2, 3, 4, 5)}
    return MaskFormerHead(cfg, shapes), features


@pytest.mark.parametrize("align", ["nearest", "bilinear", "deform", "flow"])
@pytest.mark.parametrize("norm", ["GN", ""])
def test_any_alignment_and_odd_sizes(align, norm):
    head, features = small(**{"MODEL.NECK.ALIGN": align, "MODEL.SEM_SEG_HEAD.NORM": norm})
    logits, masks = head(features)
    assert logits.shape == (2, 2, 4, 4) and masks.shape == (2, 2, 4, 9, 11)
    (logits.sum() + masks.square().sum()).backward()
    assert not [n for n, p in head.named_parameters() if p.grad is None]


def test_the_norm_of_two_layers_is_one():
    plain, _ = small()
    aligned, _ = small(**{"MODEL.NECK.ALIGN": "deform"})
    norms = [n for n in aligned.pixel_decoder.state_dict() if "norm" in n]
    assert norms == [n for n in plain.pixel_decoder.state_dict() if "norm" in n]
    assert "norm_4.weight" in norms and not any(n.startswith("align") for n in norms)


def test_keys_that_would_be_ignored_are_refused():
    with pytest.raises(ValueError, match=r"NECK.LATERAL and MODEL.NECK.PRESET cannot be set.*PyramidPixelDecoder"):
        small(**{"MODEL.NECK.LATERAL": "conv1x1", "MODEL.NECK.PRESET": "fapn"})
    with pytest.raises(ValueError, match=r"MODEL.SEM_SEG_HEAD.IN_FEATURES = .*'p2'"):
        small(**{"MODEL.SEM_SEG_HEAD.IN_FEATURES": ["p2", "p3"]})
    with pytest.raises(ValueError, match=r"unknown 'FPN'; allowed: MaskFormerPixelDecoder, PyramidPixelDecoder"):
        small(**{"MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": "FPN"})
    with pytest.raises(ValueError, match="TRANSFORMER_IN_FEATURE = 'res6'"):
        small(**{"MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE": "res6"})


def test_the_map_is_projected_where_its_channels_differ_or_on_demand():
    head, _ = small(**{"MODEL.MASK_FORMER.HIDDEN_DIM": 40})
    assert not list(head.predictor.input_proj.parameters())
    head, _ = small(**{"MODEL.MASK_FORMER.HIDDEN_DIM": 40, "MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ": True})
    assert head.predictor.input_proj.weight.shape == (40, 40, 1, 1)


@pytest.mark.parametrize("preset", ["fpn", "fapn", "augfpn", "sfnet"])
def test_any_pyramid_can_be_the_pixel_decoder(preset):
    head, features = small(
        **{
            "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": "PyramidPixelDecoder",
            "MODEL.NECK.PRESET": preset,
            "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
            "MODEL.FPN.OUT_CHANNELS": 32,
            "MODEL.FPN.NORM": "GN" if preset == "sfnet" else "",
        }
    )
    logits, masks = head(features)
    assert masks.shape == (2, 2, 4, 9, 11)
    (logits.sum() + masks.square().sum()).backward()
    assert not [n for n, p in head.named_parameters() if p.grad is None]
