"""What PanopticFCN learns from: score maps of centres and regions, and masks at stride 4. PanopticFCN, Section 3.1.

The paper leaves most of it open; the numbers are those of its official code.
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
    """Makes the targets of a batch.

    Args:
        num_things: K.
        num_stuff: S.
        scales: one (least, greatest) per level: the objects on it, by the square root of the area of their box in
            pixels of the input. Both ends are included and ranges may overlap, so an object may be on several levels.
        center: "mass" puts an object's centre at the mean position of its mask at stride 4, "box" at the middle of its
            box. An object whose mask is empty at stride 4 has the middle of its box.
        min_overlap: IoU with its box that a box of the same size still has when it is moved by the radius of a centre's
            Gaussian, by the formulas of CornerNet's code.
        sigma: diameters of that Gaussian in one standard deviation, upside down: its deviation is diameter / sigma.

    Raises:
        ValueError: an unknown ``center``.
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
            instances: of each image, with ``gt_boxes``, ``gt_classes`` and ``gt_masks`` where there are objects. If
                they are not on a GPU, nothing here waits for one.
            sem_seg: (height, width) labels of each image; numbers from S on belong to no class and are background of
                all.
            finest: H and W, a quarter of the padded input's size.
            levels: h and w of each level.
            device, dtype: of the targets.
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

    Two of the three roots are divided by 2 where the quadratic formula has 2a, as in CornerNet's code and all that
    followed it.

    Args:
        sides: (n,2) float64, height and width of boxes in cells of the level.
        min_overlap: IoU that must remain.

    Returns:
        (n,) int64.
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
        centers: (n,2) int64, row and column; one that lies outside leaves the part of its Gaussian that is inside.
        radii: (n,) int64, half the side of the square in cells.
        classes: (n,) int64.
        num_classes: K.
        size: h and w.
        sigma: the Gaussian's standard deviation is (2 radius + 1) / sigma.
        dtype: of the result.

    Returns:
        (K,h,w).
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
    """Zeros below and to the right; rows and columns that do not fit are cut off."""
    return F.pad(maps, (0, size[1] - maps.shape[2], 0, size[0] - maps.shape[1]))


def _masks(instances: Instances, device: torch.device) -> tuple[Tensor, tuple[int, int]]:
    """(n,height,width) bool masks and their size at stride 4; loaders leave the field out where nothing is."""
    size = instances.image_size
    if not len(instances):
        return torch.zeros(0, *size, dtype=torch.bool, device=device), quarter(size)
    masks = instances.gt_masks
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, *size)
    return masks.tensor.to(device), quarter(size)
