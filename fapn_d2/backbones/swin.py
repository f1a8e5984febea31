"""Swin Transformer as a bottom-up network: Liu et al., ICCV 2021, as the official segmentation code has it.

timm's network with three differences that matter on maps which windows do not divide: each output has a LayerNorm;
windows and shifts are those of the paper whatever the size of the image; a map is padded first and rolled then, so
that windows and the mask of rolled regions fit.

Letters: N images, H x W size of a map, C channels, w side of a window, s shift.
"""

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from .timm_backbone import TimmBackbone

#: Added to attention between regions that are neighbours only because the map was rolled.
_APART = -100.0


class ShiftedWindowBlock(nn.Module):
    """timm's ``SwinTransformerBlock`` that pads before it rolls: (N,H,W,C) -> (N,H,W,C).

    The padding, zeros below and on the right after the first norm, takes part in attention, as in the official code.

    Args:
        block: a block of timm. Its parts become this block's, under the same names.
    """

    def __init__(self, block: nn.Module):
        super().__init__()
        self.norm1, self.attn, self.drop_path1 = block.norm1, block.attn, block.drop_path1
        self.norm2, self.mlp, self.drop_path2 = block.norm2, block.mlp, block.drop_path2
        self.window, self.shift = block.window_size[0], block.shift_size[0]

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path1(self._attend(self.norm1(x)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor) -> Tensor:
        n, height, width, channels = x.shape
        w, s = self.window, self.shift
        x = F.pad(x, (0, 0, 0, -width % w, 0, -height % w))
        size = x.shape[1:3]
        x = x.roll((-s, -s), dims=(1, 2)) if s else x
        mask = apart(size, w, s, device=x.device, dtype=x.dtype) if s else None
        windows = self.attn(_windows(x, w).flatten(1, 2), mask=mask)
        x = windows.view(n, size[0] // w, size[1] // w, w, w, channels).transpose(2, 3).reshape(n, *size, channels)
        x = x.roll((s, s), dims=(1, 2)) if s else x
        return x[:, :height, :width]


def _windows(x: Tensor, window: int) -> Tensor:
    """(N,H,W,C), multiples of w -> (N * number, w, w, C)."""
    n, height, width, channels = x.shape
    x = x.view(n, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).reshape(-1, window, window, channels)


def apart(size: tuple[int, int], window: int, shift: int, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(windows, w*w, w*w) mask: 0 within a region of the map that was rolled by ``shift``, -100 between two."""
    regions = []
    for length in size:
        position = torch.arange(length, device=device)
        regions.append((position >= length - window).int() + (position >= length - shift).int())
    region = (3 * regions[0][:, None] + regions[1])[None, :, :, None]
    region = _windows(region, window).flatten(1)
    return (region[:, :, None] != region[:, None, :]).to(dtype) * _APART


def relative_position_index(window: int) -> Tensor:
    """(w*w, w*w) row of the table of position biases for each pair of positions of a window."""
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy, dx = y[:, None] - y + window - 1, x[:, None] - x + window - 1
    return dy * (2 * window - 1) + dx


class SwinBackbone(TimmBackbone):
    """The Swin Transformer ``name`` of timm, which is computed as the official segmentation code computes it.

    Args:
        name: the name of a timm model, such as "swin_large_patch4_window12_384".
        drop_path_rate: the rate of the last block. It grows linearly from 0 over all blocks.
        freeze_at, in_channels: the arguments of :class:`TimmBackbone`.
        **options: more arguments of timm's network, which replace what the name says.

    Parameters are named ``body.*`` as in timm, and ``norm0`` to ``norm3`` for the norms of the outputs.

    Raises:
        ValueError: ``name`` is not a Swin of version 1.
    """

    def __init__(self, name: str, *, drop_path_rate: float = 0.3, freeze_at: int = 0, in_channels: int = 3, **options):
        if not name.startswith("swin_"):
            raise ValueError(
                f"MODEL.TIMM.NAME = {name!r} is not a Swin Transformer of version 1 (swin_*); name one, or set the "
                "bottom-up network build_timm_backbone"
            )
        options = {"strict_img_size": False, "always_partition": True, "drop_path_rate": drop_path_rate} | options
        super().__init__(name, freeze_at=freeze_at, in_channels=in_channels, **options)
        for i in range(4):
            stage = getattr(self.body, f"layers_{i}")
            stage.blocks = nn.Sequential(*(ShiftedWindowBlock(block) for block in stage.blocks))
            self.add_module(f"norm{i}", nn.LayerNorm(self._out_feature_channels[self._out_features[i]]))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N,3,H,W) -> {"res2": (N,C,H/4,W/4), ...}."""
        maps = zip(self._out_features, self.body(x))
        return {name: getattr(self, f"norm{i}")(m).permute(0, 3, 1, 2).contiguous() for i, (name, m) in enumerate(maps)}


@BACKBONE_REGISTRY.register()
def build_swin_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> SwinBackbone:
    """The Swin Transformer MODEL.TIMM.NAME, with maps "res2" to "res5"."""
    return SwinBackbone(
        cfg.MODEL.TIMM.NAME,
        drop_path_rate=cfg.MODEL.TIMM.DROP_PATH_RATE,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        in_channels=input_shape.channels,
    )
