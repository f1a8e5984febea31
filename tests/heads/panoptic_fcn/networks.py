"""Small heads of PanopticFCN and the official arrays, for tests of each part."""

from pathlib import Path

import numpy as np
import torch
from detectron2.layers import ShapeSpec
from torch import nn

from fapn_d2.checkpoint.keys.panoptic_fcn import panoptic_fcn_state_to_ours
from fapn_d2.heads.panoptic_fcn import FeatureEncoder, KernelEmbedding, KernelHead, PositionHead, SemanticFPN
from fapn_d2.heads.panoptic_fcn.tower import Tower

LEVELS = ("p3", "p4", "p5", "p6", "p7")


class Arrays:
    """A file of arrays; numbers come as float64 tensors."""

    def __init__(self, path: Path):
        with np.load(path) as file:
            self.arrays = {name: file[name] for name in file.files}

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = torch.from_numpy(self.arrays[name])
        return tensor.double() if tensor.is_floating_point() else tensor

    def levels(self, name: str) -> list[torch.Tensor]:
        return [self[f"{name}/{level}"] for level in LEVELS]

    def below(self, prefix: str) -> dict[str, torch.Tensor]:
        """{rest of the name: tensor} of all names that start with ``prefix``/."""
        return {name.removeprefix(f"{prefix}/"): self[name] for name in self.arrays if name.startswith(f"{prefix}/")}


class Heads(nn.Module):
    """All heads over maps of 64 channels, as in the official arrays: 5 classes of things, 6 of the semantic branch."""

    def __init__(self):
        super().__init__()
        shapes = {f"p{level}": ShapeSpec(channels=64, stride=2**level) for level in (2, 3, 4, 5)}
        self.semantic_fpn = SemanticFPN(shapes, num_classes=6, conv_dims=64, common_stride=4, norm="GN")
        self.feature_encoder = FeatureEncoder(Tower(64, 16, 3, norm="", coordinates=True, deformable=False))
        position = Tower(64, 64, 3, norm="GN", coordinates=False, deformable=True)
        self.position_head = PositionHead(position, 64, num_things=5, num_stuff=6, bias=-2.19)
        self.kernel_head = KernelHead(Tower(64, 64, 3, norm="GN", coordinates=True, deformable=False), 64)


class Embeddings(nn.Module):
    """The last layers of kernels, 32 -> 12 channels, as in the official arrays."""

    def __init__(self):
        super().__init__()
        self.thing_generator = KernelEmbedding(32, 12)
        self.stuff_generator = KernelEmbedding(32, 12)


def ours(official: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our names for some of an official network's."""
    marker = "position_head.out_inst.weight"
    converted = panoptic_fcn_state_to_ours(official | {marker: official.get(marker, torch.zeros(1))})
    return converted if marker in official else {k: v for k, v in converted.items() if not k.startswith("position_")}


def assert_near(got: torch.Tensor, expected: torch.Tensor, atol: float = 1e-9) -> None:
    torch.testing.assert_close(got.double(), expected.double(), rtol=0, atol=atol)
