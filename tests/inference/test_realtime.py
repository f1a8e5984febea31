"""Networks at fixed size: every way of making them fast gives the network's own results."""

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from fapn_d2.config.loading import load_config
from fapn_d2.inference import realtime
from fapn_d2.inference.norm_folding import fold_norms
from fapn_d2.inference.realtime import RealTimeSegmentor, graphed
from fapn_d2.meta_arch import acceleration
from fapn_d2.meta_arch.acceleration import compile_in_place
from fapn_d2.meta_arch.build import build_model

CONFIGS = {
    "fapn": "configs/fapn/realtime_R_18_FaPN_camvid.yaml",
    "sfnet": "configs/sfnet/semantic_R_18_SFNet_camvid.yaml",
    "df1": "configs/sfnet/semantic_DF1_SFNet_cityscapes.yaml",
    "shufflenet": "configs/sfnet/semantic_ShuffleNetV2_SFNet_cityscapes.yaml",
    "padded": "configs/fapn/semantic_R_18_FaPN_camvid.yaml",  # SemanticSegmentor: pads to a multiple of 32
}
SIZE = (62, 93)


def network(name: str, *opts, device="cpu") -> nn.Module:
    """With batch statistics, scales and shifts that are neither 0 nor 1."""
    model = build_model(load_config(CONFIGS[name], ["MODEL.DEVICE", device, "MODEL.WEIGHTS", "", *opts])).eval()
    generator = torch.Generator().manual_seed(0)
    for m in model.modules():
        if isinstance(m, (nn.BatchNorm2d, FrozenBatchNorm2d)):
            for tensor, low, high in ((m.weight, 0.5, 0.9), (m.bias, -0.2, 0.2), (m.running_mean, -0.2, 0.2)):
                tensor.data.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))
            m.running_var.copy_(1 + torch.rand(m.running_var.shape, generator=generator))
    return model


def images(batch: int = 1) -> torch.Tensor:
    return torch.randint(256, (batch, 3, *SIZE), dtype=torch.uint8)


def own_logits(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack([r["sem_seg"] for r in model([{"image": image} for image in batch])])


@pytest.mark.parametrize("name", ["fapn", "padded"])
def test_equals_the_network(name):
    model, batch = network(name), images(2)
    expected = own_logits(model, batch)
    assert torch.equal(RealTimeSegmentor(model, SIZE, batch=2, output="logits")(batch), expected)
    labels = RealTimeSegmentor(model, SIZE, batch=2)(batch.float())
    assert labels.dtype == torch.uint8 and torch.equal(labels.long(), expected.argmax(1))


@pytest.mark.parametrize("name", CONFIGS)
def test_folding_keeps_the_results(name):
    opts = ("MODEL.FPN.NORM", "BN") if name == "fapn" else ()  # a norm in the alignment, too
    model, batch = network(name, *opts).double(), images()
    expected = own_logits(model, batch)
    norms = sum(isinstance(m, (nn.BatchNorm2d, FrozenBatchNorm2d)) for m in model.modules())
    names = len(model.state_dict())
    assert fold_norms(model) == norms > 10
    assert not any(isinstance(m, (nn.BatchNorm2d, FrozenBatchNorm2d)) for m in model.modules())
    assert len(model.state_dict()) < names
    torch.testing.assert_close(own_logits(model, batch), expected, rtol=1e-9, atol=1e-9)


def test_folding_needs_final_statistics():
    with pytest.raises(ValueError, match=r"call eval\(\) on the network first"):
        fold_norms(network("fapn").train())
    alone = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.GroupNorm(1, 3)).eval()
    assert fold_norms(alone) == 0 and isinstance(alone[1], nn.BatchNorm2d)


def test_ways_combine_and_leave_the_model_alone(monkeypatch):
    compiled = []

    def quick(module, *, dynamic):
        compiled.append(dynamic)
        compile_in_place(module, dynamic=dynamic, backend="aot_eager")

    monkeypatch.setattr(realtime, "compile_in_place", quick)
    model, batch = network("fapn"), images()
    expected = own_logits(model, batch)
    ways = {"output": "logits", "channels_last": True, "fold": True, "compile": True}
    fast = RealTimeSegmentor(model, SIZE, **ways)
    torch.testing.assert_close(fast(batch), expected, rtol=1e-4, atol=1e-4)
    assert compiled == [False]
    half = RealTimeSegmentor(model, SIZE, output="logits", channels_last=True, dtype=torch.bfloat16)
    weights = [p for name, p in half.named_parameters() if "conv" in name and p.dim() == 4]
    assert weights and all(w.dtype == torch.bfloat16 for w in weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = own_logits(model, batch)
    assert (half(batch) - expected).norm() < 1.5 * (autocast - expected).norm() < 0.1 * expected.norm()
    assert all(p.dtype == torch.float32 and p.requires_grad for p in model.parameters())
    assert torch.equal(own_logits(model, batch), expected)


def test_choices_that_cannot_act_are_refused(monkeypatch):
    model = network("fapn")
    with pytest.raises(ValueError, match=r"a CUDA graph needs a CUDA device, this is cpu"):
        RealTimeSegmentor(model, SIZE, cuda_graph=True)
    with pytest.raises(ValueError, match=r"cannot compute in torch.float16 on cpu"):
        RealTimeSegmentor(model, SIZE, dtype=torch.float16)
    with pytest.raises(ValueError, match="output 'boxes' of a RealTimeSegmentor; allowed: labels, logits"):
        RealTimeSegmentor(model, SIZE, output="boxes")
    with pytest.raises(ValueError, match=r"is for images \(1, 3, 62, 93\), got \(2, 3, 62, 93\)"):
        RealTimeSegmentor(model, SIZE)(images(2))
    with pytest.raises(ValueError, match="Linear"):
        RealTimeSegmentor(nn.Linear(1, 1), SIZE)
    monkeypatch.setattr(acceleration.shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler"):
        RealTimeSegmentor(model, SIZE, compile=True)


@pytest.mark.gpu
def test_cuda_graph_replays_with_new_values():
    device = torch.device("cuda")
    replay = graphed(lambda maps: {"double": 2 * maps["x"]}, {"x": torch.zeros(3, device=device)})
    for value in (1.0, 5.0):
        assert replay({"x": torch.full((3,), value, device=device)})["double"].tolist() == [2 * value] * 3


@pytest.mark.gpu
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["fapn", "sfnet", "padded"])
def test_graph_of_a_network(name, dtype, compile):
    model = network(name, device="cuda")
    ways = {"output": "logits", "dtype": dtype, "channels_last": True, "fold": True}
    plain = RealTimeSegmentor(model, SIZE, **ways)
    fast = RealTimeSegmentor(model, SIZE, **ways, cuda_graph=True, compile=compile)
    tolerance = 0.02 if dtype is torch.float32 else 0.1  # TF32 may be on; a compiler rounds less often than autocast
    for _ in range(3):
        frame = images()  # on the host: copied to where the recording reads it
        expected = plain(frame)
        assert (fast(frame) - expected).norm() < tolerance * expected.norm()
