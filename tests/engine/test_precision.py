"""Which numbers SOLVER.AMP trains in, on which device."""

import pytest
import torch

from fapn_d2.config.loading import load_config
from fapn_d2.engine.precision import amp_dtype


def dtype(device: str, name: str = "auto", enabled: bool = True):
    opts = ["MODEL.DEVICE", device, "SOLVER.AMP.DTYPE", name, "SOLVER.AMP.ENABLED", str(enabled)]
    return amp_dtype(load_config("", opts))


def test_choice(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert dtype("cpu", enabled=False) is None and dtype("cuda", enabled=False) is None
    assert dtype("cpu") is torch.bfloat16 and dtype("cuda") is torch.float16
    assert dtype("cpu", "bfloat16") is torch.bfloat16 and dtype("cuda", "bfloat16") is torch.bfloat16


def test_refusals(monkeypatch):
    with pytest.raises(ValueError, match=r"\"float16\" needs CUDA, MODEL.DEVICE is cpu: use \"bfloat16\""):
        dtype("cpu", "float16")
    with pytest.raises(ValueError, match=r"SOLVER.AMP.DTYPE is 'half'; allowed are \"auto\", 'float16', 'bfloat16'"):
        dtype("cpu", "half")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    with pytest.raises(ValueError, match="this GPU cannot compute in bfloat16"):
        dtype("cuda", "bfloat16")
