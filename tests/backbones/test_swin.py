"""Swin against the official code's arrays, and its windows by hand."""

import pytest
import torch

from fapn_d2.backbones.swin import SwinBackbone, apart, relative_position_index
from fapn_d2.checkpoint.keys.maskformer import maskformer_state_to_official, maskformer_state_to_ours
from tests.heads.mask_former.arrays import below, load

CLASSES = {"sem_seg_head.predictor.class_embed.bias": torch.zeros(3)}  # what makes it a MaskFormer's state


def small(meta, **options):
    return SwinBackbone(
        "swin_tiny_patch4_window7_224",
        embed_dim=meta["embed_dim"],
        depths=tuple(meta["depths"]),
        num_heads=tuple(meta["num_heads"]),
        window_size=meta["window_size"],
        mlp_ratio=meta["mlp_ratio"],
        **{"drop_path_rate": 0.0} | options,
    )


@pytest.fixture
def network(reference):
    meta, arrays = load(reference, "swin")
    official = {f"backbone.{key}": value for key, value in below(arrays, "sd/").items()}
    model = small(meta).double()
    ours = below(maskformer_state_to_ours(official | CLASSES), "backbone.")
    model.load_state_dict(ours, strict=True)
    return meta, arrays, model


@pytest.mark.parametrize("case", [0, 1])
def test_maps_are_those_of_the_official_network(network, case):
    _, arrays, model = network
    maps = model(arrays[f"in/case{case}/image"])
    for name, value in maps.items():
        torch.testing.assert_close(value, arrays[f"out64/case{case}/{name}"], rtol=1e-9, atol=1e-9)


def test_gradients_are_those_of_the_official_network(network):
    _, arrays, model = network
    image = arrays["in/case0/image"].requires_grad_()
    maps = model(image)
    sum((maps[name] * cot).sum() for name, cot in below(arrays, "cot/case0/").items()).backward()
    torch.testing.assert_close(image.grad, arrays["grad64/case0/image"], rtol=1e-9, atol=1e-9)
    ours = {f"backbone.{name}": p.grad for name, p in model.named_parameters()} | CLASSES
    official = below(maskformer_state_to_official(ours), "backbone.")
    gradients = below(arrays, "grad64/case0/sd/")
    assert len(gradients) == 20
    for name, gradient in gradients.items():
        torch.testing.assert_close(official[name], gradient, rtol=1e-9, atol=1e-9)


def test_size_of_the_official_small_network(network):
    meta, _, model = network
    assert sum(p.numel() for p in model.parameters()) == meta["params"]


def test_regions_of_a_rolled_map_are_apart():
    mask = apart((4, 8), 4, 2, device=torch.device("cpu"), dtype=torch.float32)
    assert mask.shape == (2, 16, 16) and set(mask.unique().tolist()) == {-100.0, 0.0}
    # first window: rows 0, 1 and rows 2, 3 come from two sides of the map; columns are together
    assert mask[0, 0].view(4, 4).tolist() == [[0.0] * 4] * 2 + [[-100.0] * 4] * 2
    # last window: columns too
    assert mask[1, 15].view(4, 4)[3].tolist() == [-100.0, -100.0, 0.0, 0.0]


def test_position_index_is_timms():
    model = small({"embed_dim": 8, "depths": (1,) * 4, "num_heads": (1,) * 4, "window_size": 3, "mlp_ratio": 1.0})
    index = model.body.layers_0.blocks[0].attn.relative_position_index
    assert torch.equal(relative_position_index(3), index)


def test_stochastic_depth_grows_over_the_blocks():
    meta = {"embed_dim": 8, "depths": (1, 1, 2, 1), "num_heads": (1,) * 4, "window_size": 3, "mlp_ratio": 1.0}
    model = small(meta, drop_path_rate=0.3)
    rates = [getattr(m, "drop_prob", 0.0) for n, m in model.named_modules() if n.endswith("drop_path1")]
    assert rates == pytest.approx([0.0, 0.075, 0.15, 0.225, 0.3])


def test_other_networks_are_refused():
    with pytest.raises(ValueError, match="'resnet18' is not a Swin Transformer of version 1"):
        SwinBackbone("resnet18")


def test_bfloat16_and_odd_sizes():
    meta = {"embed_dim": 8, "depths": (2,) * 4, "num_heads": (1,) * 4, "window_size": 3, "mlp_ratio": 1.0}
    model = small(meta)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = model(torch.randn(1, 3, 36, 100))
    assert [tuple(m.shape[-2:]) for m in maps.values()] == [(9, 25), (5, 13), (3, 7), (2, 4)]
    sum(m.float().square().sum() for m in maps.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
