"""Mask losses in chunks, beside the plain form that has all masks at once: memory and time of forward and backward."""

from collections.abc import Callable, Iterator

import torch

from ..heads.mask_former.criterion import SetCriterion
from ..heads.mask_former.matcher import HungarianMatcher, Targets
from ..heads.panoptic_fcn.kernel_head import KernelEmbedding
from ..heads.panoptic_fcn.losses import PanopticFCNLosses, Predictions
from ..heads.panoptic_fcn.targets import Targets as PanopticTargets
from .measure import Comparison
from .options import Options

#: Objects of an image.
COUNTS = (10, 40)
_ALL = 2**62
_QUERIES, _LAYERS, _CLASSES = 100, 6, 20


def mask_loss_comparisons(options: Options) -> Iterator[Comparison]:
    """MaskFormer's and PanopticFCN's losses on random predictions, with few and with many objects per image."""
    for network, build in (("MaskFormer", _mask_former), ("PanopticFCN", _panoptic_fcn)):
        for size in options.images:
            padded = tuple(-(-side // 32) * 32 for side in size)
            for batch in options.batches:
                for count in COUNTS:
                    setting = {"losses of": network, "image": f"{size[0]}x{size[1]}", "batch": batch, "objects": count}
                    calls = {
                        "plain": build(padded, batch, count, options.device, {"chunk_pixels": _ALL}),
                        "in chunks": build(padded, batch, count, options.device, {}),
                    }
                    yield Comparison("losses", setting, "plain", calls, items=batch)


def _mask_former(size, batch: int, count: int, device: torch.device, chunks: dict) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(_LAYERS, batch, _QUERIES, _CLASSES + 1, generator=generator).to(device)
    masks = torch.randn(_LAYERS, batch, _QUERIES, size[0] // 4, size[1] // 4, generator=generator).to(device)
    targets = [
        Targets(torch.arange(count, device=device) % _CLASSES, _rectangles(count, size).bool().to(device))
        for _ in range(batch)
    ]
    criterion = SetCriterion(_CLASSES, matcher=HungarianMatcher(), **chunks).to(device)

    def step() -> None:
        leaves = logits.detach().requires_grad_(), masks.detach().requires_grad_()
        sum(criterion(*leaves, targets).values()).backward()

    return step


def _panoptic_fcn(size, batch: int, count: int, device: torch.device, chunks: dict) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(0)
    finest = (size[0] // 4, size[1] // 4)
    level = (size[0] // 16, size[1] // 16)  # all objects are on one level

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    maps = [normal(batch, _CLASSES, *level), normal(batch, 3, *level), normal(batch, 256, *level)]
    encoded = normal(batch, 64, *finest)
    masks, index = _rectangles(count, finest).to(device), torch.arange(count, device=device)
    targets = PanopticTargets(
        centers=[torch.zeros_like(maps[0])],
        regions=[torch.ones_like(maps[1])],
        objects=[[index] * batch],
        classes=[index % _CLASSES] * batch,
        masks=[masks] * batch,
        semantic=torch.rand(batch, 3, *finest, generator=generator).to(device),
    )
    criterion = PanopticFCNLosses(
        num_kernels=7, position_weight=1.0, segment_weight=3.0, alpha=0.25, gamma=2.0, **chunks
    )
    torch.manual_seed(0)
    embed_thing, embed_stuff = (KernelEmbedding(256, 64).to(device) for _ in range(2))

    def step() -> None:
        center, region, kernel, encoding = (x.detach().requires_grad_() for x in (*maps, encoded))
        predictions = Predictions([center], [region], [kernel], encoding)
        sum(criterion(predictions, targets, embed_thing, embed_stuff).values()).backward()

    return step


def _rectangles(count: int, size: tuple[int, int]) -> torch.Tensor:
    """(count, H, W) float masks, each a quarter of the image."""
    masks = torch.zeros(count, *size)
    for n in range(count):
        top, left = n * size[0] // (2 * count), (count - n) * size[1] // (2 * count)
        masks[n, top : top + size[0] // 2, left : left + size[1] // 2] = 1
    return masks
