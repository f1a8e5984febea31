"""The data type in which a network is trained."""

import torch
from detectron2.config import CfgNode

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def amp_dtype(cfg: CfgNode) -> torch.dtype | None:
    """The type for ``torch.autocast`` that SOLVER.AMP sets, or None if it is off.

    "auto" is float16 on CUDA and bfloat16 on other devices.

    Raises:
        ValueError: the name is unknown, float16 is set without CUDA, or the GPU does not support bfloat16.
    """
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    on_cuda = cfg.MODEL.DEVICE.startswith("cuda")
    name = cfg.SOLVER.AMP.DTYPE
    if name == "auto":
        name = "float16" if on_cuda else "bfloat16"
    if name not in _DTYPES:
        raise ValueError(f'SOLVER.AMP.DTYPE is {name!r}; allowed are "auto", {", ".join(map(repr, _DTYPES))}')
    if name == "float16" and not on_cuda:
        raise ValueError(f'SOLVER.AMP.DTYPE "float16" needs CUDA, MODEL.DEVICE is {cfg.MODEL.DEVICE}: use "bfloat16"')
    if name == "bfloat16" and on_cuda and not torch.cuda.is_bf16_supported():
        raise ValueError('this GPU cannot compute in bfloat16: use SOLVER.AMP.DTYPE "float16"')
    return _DTYPES[name]
