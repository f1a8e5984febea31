"""The targets of PanopticFCN: score maps of centres and regions, and masks at stride 4. PanopticFCN, Section 3.1.

The paper does not describe most of the details; the numbers are those of its official code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import BitMasks, Instances, PolygonMasks
from torch import Tensor
from torch.nn import functional as F

from ...layers.resize import shrink_labels, shrink_masks

CENTERS = ("mass", "box")
#: A region's score below this is 0.
_LEAST_REGION_SCORE = 0.5


@dataclass(frozen=True)
class Targets:
    """Targets of a batch; levels are finest first."""

    centers: list[Tensor]  #: one (N,K,h,w) per level, 0 to 1
    regions: list[Tensor]  #: one (N,S,h,w) per level: 0, or 0.5 to 1
    masks: list[Tensor]  #: one (n,H,W) per image, 0 to 1, for its n objects
    classes: list[Tensor]  #: one (n,) per image, 0 to K-1
    semantic: Tensor  #: (N,S,H,W), 0 to 1
    objects: list[list[Tensor]]  #: for each level one tensor per image: the numbers of its objects on this level


class TargetBuilder:
    """Computes the targets of a batch.

    Args:
        num_things: the number of thing classes K.
        num_stuff: the number of stuff classes S.
        scales: one (smallest, largest) size of objects per level: the square root of the area of the box in pixels of
            the input. Both ends are included. Ranges may overlap, so an object may be on several levels.
        center: "mass" puts an object's centre at the mean position of its mask at stride 4, "box" at the middle of its
            box. If the mask is empty at stride 4, the centre is the middle of the box.
        min_overlap: the IoU of a box with the same box moved by the radius of a centre's Gaussian, by the formulas of
            CornerNet's code. It determines the radius.
        sigma: the diameter of the Gaussian divided by its standard deviation.

    Raises:
        ValueError: ``center`` is unknown.
    """

    def __init__(
        self,
        *,
        num_things: int,
        num_stuff: int,
        scales: Sequence[tuple[float, float]],
        center: str = "mass",
        min_overlap: float = 0.7,
        sigma: float = 3.0,
    ):
        if center not in CENTERS:
            raise ValueError(f"MODEL.PANOPTIC_FCN.CENTER: unknown {center!r}; allowed: {', '.join(CENTERS)}")
        self.num_things = num_things
        self.num_stuff = num_stuff
        self.scales = scales
        self.center = center
        self.min_overlap = min_overlap
        self.sigma = sigma

    @torch.no_grad()
    def __call__(
        self,
        instances: list[Instances],
        sem_seg: list[Tensor],
        *,
        finest: tuple[int, int],
        levels: list[tuple[int, int]],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> Targets:
        """Targets of the images of a batch.

        Args:
            instances: the objects of each image, with ``gt_boxes``, ``gt_classes`` and ``gt_masks`` if there are
                objects. If they are not on a GPU, this function does not wait for the GPU.
            sem_seg: the labels (height, width) of each image. Numbers from S on do not belong to a class; such pixels
                are background for all classes.
            finest: the size (H, W), a quarter of the padded input's size.
            levels: the size (h, w) of each level.
            device, dtype: the device and type of the targets.
        """
        areas = [x.gt_boxes.area().sqrt() for x in instances]
        objects = [
            [((a >= least) & (a <= most)).nonzero()[:, 0].to(device, non_blocking=True) for a in areas]
            for least, most in self.scales
        ]
        masks = [_padded(shrink_masks(*_masks(x, device), dtype), finest) for x in instances]
        semantic = torch.stack(
            [_padded(shrink_labels(x.to(device), self.num_stuff, quarter(x.shape), dtype), finest) for x in sem_seg]
        )
        classes = [x.gt_classes.to(device) for x in instances]
        boxes = [x.gt_boxes.tensor.to(device, torch.float64) for x in instances]
        positions = [self._positions(m, b) for m, b in zip(masks, boxes)]
        centers, regions = [], []
        for size, of_images in zip(levels, objects):
            maps = []
            for i, kept in enumerate(of_images):
                scale = torch.tensor([size[0] / finest[0], size[1] / finest[1]], dtype=torch.float64, device=device)
                limit = torch.tensor(size, device=device)
                at = (positions[i][kept] * scale).long().clamp(min=0).minimum(limit)
                sides = (boxes[i][kept, 2:] - boxes[i][kept, :2]).flip(1) / 4 * scale
                radii = gaussian_radius(sides, self.min_overlap)
                maps.append(gaussian_scores(at, radii, classes[i][kept], self.num_things, size, self.sigma, dtype))
            centers.append(torch.stack(maps))
            scores = F.interpolate(semantic, size=size, mode="bilinear", align_corners=False)
            regions.append(torch.where(scores < _LEAST_REGION_SCORE, 0, scores))
        return Targets(centers, regions, masks, classes, semantic, objects)

    def _positions(self, masks: Tensor, boxes: Tensor) -> Tensor:
        """(n,2): row and column of each object's centre in pixels of the finest map, in float64."""
        of_boxes = (boxes[:, :2] + boxes[:, 2:]).flip(1) / 2 / 4
        if self.center == "box":
            return of_boxes
        filled = (masks != 0).double()
        rows, columns = (torch.arange(n, dtype=torch.float64, device=masks.device) for n in masks.shape[1:])
        sums = torch.stack([filled.sum(dim=2) @ rows, filled.sum(dim=1) @ columns], dim=1)
        count = filled.sum(dim=(1, 2))[:, None]
        return torch.where(count > 0, sums / count.clamp(min=1), of_boxes)


def gaussian_radius(sides: Tensor, min_overlap: float) -> Tensor:
    """Radius in whole cells of the Gaussian around a centre: CornerNet (Law and Deng, ECCV 2018), Section 3.2.

    Two of the three roots are divided by 2 instead of the 2a of the quadratic formula, as in CornerNet's code and in
    the code of later detectors.

    Args:
        sides: the heights and widths (n,2) of boxes in cells of the level, float64.
        min_overlap: the IoU that must remain.

    Returns:
        The radii (n,), int64.
    """
    total, area, o = sides.sum(dim=1), sides.prod(dim=1), min_overlap
    first = (total + (total**2 - 4 * area * (1 - o) / (1 + o)).clamp(min=0).sqrt()) / 2
    second = (2 * total + (4 * total**2 - 16 * (1 - o) * area).clamp(min=0).sqrt()) / 2
    third = (-2 * o * total + (4 * o**2 * total**2 + 16 * o * (1 - o) * area).sqrt()) / 2
    return torch.stack([first, second, third]).amin(dim=0).clamp(min=0).long()


def gaussian_scores(
    centers: Tensor,
    radii: Tensor,
    classes: Tensor,
    num_classes: int,
    size: tuple[int, int],
    sigma: float,
    dtype: torch.dtype,
) -> Tensor:
    """Score maps: for each class the greatest of its objects' Gaussians, each inside a square around its centre.

    Args:
        centers: the rows and columns (n,2), int64. If a centre is outside of the map, the part of its Gaussian inside
            of the map is drawn.
        radii: half the side of each square in cells (n,), int64.
        classes: the class numbers (n,), int64.
        num_classes: the number of classes K.
        size: the size (h, w) of the map.
        sigma: the number such that the Gaussian's standard deviation is (2 radius + 1) / sigma.
        dtype: the type of the result.

    Returns:
        The maps (K,h,w).
    """
    scores = torch.zeros(num_classes, *size, dtype=dtype, device=centers.device)
    if not len(centers):
        return scores
    rows = torch.arange(size[0], device=centers.device) - centers[:, :1]
    columns = torch.arange(size[1], device=centers.device) - centers[:, 1:]
    distance = (rows**2)[:, :, None] + (columns**2)[:, None, :]
    radii = radii[:, None, None]
    deviation = (2 * radii + 1).to(dtype) / sigma
    gaussians = (-distance / (2 * deviation**2)).exp()
    inside = torch.maximum(rows.abs()[:, :, None], columns.abs()[:, None, :]) <= radii
    index = classes[:, None, None].expand_as(gaussians)
    return scores.scatter_reduce(0, index, torch.where(inside, gaussians, 0), "amax")


def quarter(size: Sequence[int]) -> tuple[int, int]:
    """Height and width at stride 4, rounded half up."""
    return tuple(int(side / 4 + 0.5) for side in size)


def _padded(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """``maps`` with zeros added at the bottom and on the right; surplus rows and columns are cut off."""
    return F.pad(maps, (0, size[1] - maps.shape[2], 0, size[0] - maps.shape[1]))


def _masks(instances: Instances, device: torch.device) -> tuple[Tensor, tuple[int, int]]:
    """(n,height,width) bool masks, and their size at stride 4. Loaders leave the field out if there are no objects."""
    size = instances.image_size
    if not len(instances):
        return torch.zeros(0, *size, dtype=torch.bool, device=device), quarter(size)
    masks = instances.gt_masks
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, *size)
    return masks.tensor.to(device), quarter(size)
