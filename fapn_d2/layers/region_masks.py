"""Masks that are small pictures of regions of an image, and their pixels in the image.

Legend: N masks, M x M size of a picture, H x W size of the image.
"""

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn import functional as F

#: Most pixels of masks that are drawn at a time.
PIXELS = 2**24


class RegionMasks:
    """A field of ``Instances``: probabilities on a grid of M x M cells, each grid with its region of the image.

    A pixel belongs to the mask if the probability at its centre, interpolated bilinearly, is at least ``threshold``.
    The probability outside of the region is 0. Regions may reach beyond the image.

    Args:
        probabilities: (N,M,M), 0 to 1.
        regions: (N,4), x0, y0, x1, y1 in pixels of the image.
        image_size: (H,W).
        threshold: above 0, because it is 0 outside of the regions.

    Raises:
        ValueError: ``threshold`` is not in (0, 1].
    """

    def __init__(self, probabilities: Tensor, regions: Tensor, image_size: tuple[int, int], *, threshold: float):
        if not 0 < threshold <= 1:
            raise ValueError(f"the threshold of masks must be above 0 and at most 1, got {threshold}")
        self.probabilities = probabilities
        self.regions = regions
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.threshold = threshold

    def __len__(self) -> int:
        return len(self.probabilities)

    def __getitem__(self, index) -> "RegionMasks":
        """Some of the masks, by a slice or a tensor of numbers or bools."""
        return self._with(self.probabilities[index], self.regions[index])

    def to(self, *args, **kwargs) -> "RegionMasks":
        return self._with(self.probabilities.to(*args, **kwargs), self.regions.to(*args, **kwargs))

    def _with(self, probabilities: Tensor, regions: Tensor) -> "RegionMasks":
        return RegionMasks(probabilities, regions, self.image_size, threshold=self.threshold)

    def rescaled(self, height: int, width: int) -> "RegionMasks":
        """The same masks on the image at another size."""
        factors = self.regions.new_tensor([width / self.image_size[1], height / self.image_size[0]]).repeat(2)
        return RegionMasks(self.probabilities, self.regions * factors, (height, width), threshold=self.threshold)

    def bitmasks(self) -> Tensor:
        """(N,H,W) bool. This takes N H W bytes; use slices of the masks where there are many."""
        drawn = torch.zeros(len(self), *self.image_size, dtype=torch.bool, device=self.regions.device)
        for chosen, crops, rows, columns in self._crops():
            height, width = self.image_size
            for number, crop, y, x in zip(chosen.tolist(), crops, rows[:, 0].tolist(), columns[:, 0].tolist()):
                top, left = max(y, 0), max(x, 0)
                bottom, right = min(y + crop.shape[0], height), min(x + crop.shape[1], width)
                if top < bottom and left < right:
                    drawn[number, top:bottom, left:right] = crop[top - y : bottom - y, left - x : right - x]
        return drawn

    def run_lengths(self) -> list[dict]:
        """COCO's run-length encoding of each mask: ``{"size": [H, W], "counts": bytes}``.

        Runs are read off the regions, so that the whole image is never drawn.
        """
        height, width = self.image_size
        encoded: list[dict | None] = [None] * len(self)
        for chosen, crops, rows, columns in self._crops():
            # Pixels in COCO's order: column by column. A column starts and ends outside of the mask.
            padded = F.pad(crops.transpose(1, 2), (1, 1)).to(torch.int8)  # (n, columns, rows + 2)
            change = padded[..., 1:] - padded[..., :-1]
            ends = []
            for sign in (1, -1):
                mask, column, row = (change == sign).nonzero(as_tuple=True)
                ends.append((columns[mask, column] * height + rows[mask, 0] + row).cpu().numpy())
            counts = torch.bincount(mask, minlength=len(chosen)).cpu().numpy()
            borders = np.concatenate([[0], counts.cumsum()])
            starts, stops = ends
            for number, first, last in zip(chosen.tolist(), borders[:-1], borders[1:]):
                encoded[number] = _runs_to_rle(starts[first:last], stops[first:last], height, width)
        return encoded

    def _crops(self):
        """Batches of masks: numbers (n,), pixels (n,h,w) bool, their rows (n,h) and columns (n,w) in the image. Pixels
        outside of the image are False."""
        if not len(self):
            return
        height, width = self.image_size
        device = self.regions.device
        corner = self.regions[:, :2].floor().long() - 1
        sides = self.regions[:, 2:].ceil().long() + 1 - corner
        # A crop need not reach beyond the image.
        limits = torch.tensor([width, height], device=device)
        low, high = corner.clamp(min=0).minimum(limits), (corner + sides).clamp(min=0).minimum(limits)
        sides = high - low
        # Crops of one size are drawn together; sizes are rounded up so that there are few of them.
        rounded = torch.where(sides > 0, ((sides + 15) // 16) * 16, 16).minimum(limits.clamp(min=1))
        sizes, members = rounded.unique(dim=0, return_inverse=True)
        for number, (w, h) in enumerate(sizes.tolist()):
            for chosen in (members == number).nonzero()[:, 0].split(max(1, PIXELS // (w * h))):
                columns = low[chosen, :1] + torch.arange(w, device=device)
                rows = low[chosen, 1:] + torch.arange(h, device=device)
                inside = (rows < height)[:, :, None] & (columns < width)[:, None, :]
                x0, y0, x1, y1 = self.regions[chosen].float().split(1, dim=1)
                x = (columns + 0.5 - x0) / (x1 - x0) * 2 - 1
                y = (rows + 0.5 - y0) / (y1 - y0) * 2 - 1
                grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=3)
                values = F.grid_sample(self.probabilities[chosen, None].float(), grid, align_corners=False)[:, 0]
                yield chosen, (values >= self.threshold) & inside, rows, columns


def _runs_to_rle(starts: np.ndarray, stops: np.ndarray, height: int, width: int) -> dict:
    """Runs [start, stop) of pixels of a mask, in order; a run that begins where another ends continues it."""
    joined = np.flatnonzero(starts[1:] == stops[:-1])
    borders = np.stack([np.delete(starts, joined + 1), np.delete(stops, joined)], axis=1).ravel()
    last = [height * width] if not len(borders) or borders[-1] < height * width else []
    counts = np.diff(np.concatenate([[0], borders, last])).astype(int).tolist()
    return coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
