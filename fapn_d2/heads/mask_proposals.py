"""Segmentation proposals on a feature pyramid (FPN, Section 6 and Appendix A).

A window of k x k cells slides over every level. At each position it predicts a score and the mask of the object whose
centre is there. A level of stride s and a window of 5 cells are for objects of 8 s pixels; a window of 7 cells is for
objects that are half an octave larger. Windows are shared by the levels.

Legend: N images, C channels, P positions of one window on all levels, G objects, W windows, M x M cells of a mask.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.proposal_generator.build import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import BitMasks, ImageList, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers.region_masks import RegionMasks
from .input_features import require_features

#: An object's scale in strides of its level, for a window of 5 cells: 32 pixels on P2 (Appendix A).
SCALE_OF_5 = 8.0
#: Side of the region that a mask covers, over the scale of the objects: 25 % padding (Appendix A).
PADDING = 1.25


def object_scale(kernel: int) -> float:
    """Scale of the objects that a window of ``kernel`` cells is for, in strides of its level: 8 for 5 cells and
    8 sqrt(2) for 7. Other windows are rounded to half octaves too."""
    return SCALE_OF_5 * 2 ** (round(2 * math.log2(kernel / 5)) / 2)


@dataclass(frozen=True)
class Positions:
    """Where a window can be: the cells of all levels, level by level, row by row; one entry per position.

    The centre of the cell in row i and column j of a level of stride s is at x = (j + 0.5) s, y = (i + 0.5) s.
    """

    level: Tensor  #: (P,) int64
    row: Tensor  #: (P,) int64
    column: Tensor  #: (P,) int64
    stride: Tensor  #: (P,) float32, pixels

    @classmethod
    def of(cls, sizes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device) -> "Positions":
        """Args:
        sizes: (height, width) of the map of each level.
        strides: of each level, in pixels.
        device: of the result.
        """
        levels, rows, columns, steps = [], [], [], []
        for level, ((height, width), stride) in enumerate(zip(sizes, strides)):
            cell = torch.arange(height * width, device=device)
            levels.append(torch.full_like(cell, level))
            rows.append(cell.div(width, rounding_mode="floor"))
            columns.append(cell % width)
            steps.append(torch.full_like(cell, stride, dtype=torch.float32))
        return cls(*(torch.cat(parts) for parts in (levels, rows, columns, steps)))

    @property
    def x(self) -> Tensor:
        return (self.column + 0.5) * self.stride

    @property
    def y(self) -> Tensor:
        return (self.row + 0.5) * self.stride

    def inside(self, size: tuple[int, int]) -> Tensor:
        """(P,) bool: whether the cell begins inside an image of (height, width) pixels, not in the padding."""
        return (self.row * self.stride < size[0]) & (self.column * self.stride < size[1])

    def regions(self, chosen: Tensor, kernel: int) -> Tensor:
        """(n,4) x0, y0, x1, y1: what the masks of a window at the positions ``chosen`` cover, in pixels."""
        half = PADDING * object_scale(kernel) * self.stride[chosen] / 2
        x, y = self.x[chosen], self.y[chosen]
        return torch.stack([x - half, y - half, x + half, y + half], dim=1)


def assign(
    positions: Positions, boxes: Tensor, usable: Tensor, *, strides: Sequence[int], kernels: Sequence[int]
) -> Tensor:
    """The object that each position of each window should predict.

    The scale of an object is the greater side of its box. The level and the window whose scale is nearest in log space
    predict it; objects beyond both ends go to the ends. A position predicts an object whose centre, that of its box, is
    at most one stride away in x and in y; of several the nearest, and of equally near ones the first.

    Args:
        positions: P positions.
        boxes: (G,4) of the objects' masks, in pixels.
        usable: (G,) bool; the other objects are nobody's target.
        strides: of the levels.
        kernels: of the windows.

    Returns:
        (W,P) int64: number of the object, or -1.
    """
    device = boxes.device
    scales = torch.tensor([[object_scale(k) * s for s in strides] for k in kernels], device=device)  # (W, levels)
    sides = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1).clamp(min=1e-6)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    # In float64 an object half-way between two scales goes to the smaller one, without rounding.
    order = scales.flatten().argsort()
    distance = (sides.double().log2()[:, None] - scales.flatten()[order].double().log2()).abs()
    nearest = order[(distance * 1e6).round().argmin(dim=1)] if len(boxes) else order[:0]

    found = torch.full((len(kernels), len(positions.level)), -1, dtype=torch.int64, device=device)
    begin = 0
    for level in range(len(strides)):
        count = int((positions.level == level).sum())
        part = slice(begin, begin + count)
        begin += count
        for window in range(len(kernels)):
            objects = (usable & (nearest == window * len(strides) + level)).nonzero()[:, 0]
            if not len(objects) or not count:
                continue
            dx = (positions.x[part, None] - centres[objects, 0]).abs()
            dy = (positions.y[part, None] - centres[objects, 1]).abs()
            apart = torch.where((dx <= strides[level]) & (dy <= strides[level]), dx**2 + dy**2, math.inf)
            best, which = apart.min(dim=1)
            found[window, part] = torch.where(best.isfinite(), objects[which], -1)
    return found


class WindowHead(nn.Module):
    """Score and mask from a window of k x k cells: a hidden layer with ReLU, then two sibling layers.

    Fully connected layers on windows are convolutions on the map. Where few positions are needed, the windows are cut
    out of the map instead; the numbers are the same.

    Args:
        channels: C of the levels.
        kernel: k, odd.
        hidden: width of the hidden layer.
        mask_size: M.
    """

    def __init__(self, channels: int, kernel: int, *, hidden: int = 512, mask_size: int = 14):
        super().__init__()
        self.kernel = kernel
        self.mask_size = mask_size
        self.hidden = nn.Conv2d(channels, hidden, kernel, padding=kernel // 2)
        self.score = nn.Conv2d(hidden, 1, 1)
        self.mask = nn.Conv2d(hidden, mask_size**2, 1)
        for layer in (self.hidden, self.score, self.mask):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def scores(self, level: Tensor) -> Tensor:
        """(N,C,h,w) -> logits (N,h,w)."""
        return self.score(F.relu(self.hidden(level)))[:, 0].float()

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Everything at every position: (N,C,h,w) -> logits (N,h,w) of scores and (N,M,M,h,w) of masks."""
        hidden = F.relu(self.hidden(level))
        masks = self.mask(hidden).unflatten(1, (self.mask_size, self.mask_size))
        return self.score(hidden)[:, 0].float(), masks.float()

    def hidden_at(self, levels: Sequence[Tensor], positions: Positions, chosen: Tensor) -> Tensor:
        """The hidden layer at some positions of one image: C-channel maps (C,h,w) per level -> (n,hidden,1,1).

        The order of the result is that of ``chosen``.
        """
        reach = self.kernel // 2
        offsets = torch.arange(self.kernel, device=chosen.device)
        windows = levels[0].new_zeros(len(chosen), levels[0].shape[0], self.kernel, self.kernel)
        on = positions.level[chosen]
        for number, level in enumerate(levels):
            here = (on == number).nonzero()[:, 0]
            padded = F.pad(level, (reach,) * 4)
            rows = positions.row[chosen[here], None, None] + offsets[:, None]
            columns = positions.column[chosen[here], None, None] + offsets
            windows = windows.index_copy(0, here, padded[:, rows, columns].transpose(0, 1))
        return F.relu(F.conv2d(windows, self.hidden.weight, self.hidden.bias))

    def masks_of(self, hidden: Tensor) -> Tensor:
        """(n,hidden,1,1) -> logits (n,M,M)."""
        return self.mask(hidden).view(-1, self.mask_size, self.mask_size).float()

    def scores_of(self, hidden: Tensor) -> Tensor:
        """(n,hidden,1,1) -> logits (n,)."""
        return self.score(hidden).flatten().float()


@PROPOSAL_GENERATOR_REGISTRY.register()
class MaskProposals(nn.Module):
    """Scores and masks at all positions of a pyramid: training, and the best masks of an image.

    Args:
        in_features: names of the levels, finest first.
        strides: of the levels, in pixels.
        channels: C, the same for all levels.
        kernels: cells of each window, odd.
        hidden: width of the hidden layer.
        mask_size: M.
        batch_size_per_image: positions sampled per image in training.
        positive_fraction: most of them that predict an object.
        mask_weight: factor on the loss of masks.
        least_area: objects with a smaller mask are no targets, in square pixels of the resized image.
        least_side: objects whose box has a shorter side are no targets either, in pixels of the resized image.
        topk: most proposals per image.
        mask_threshold: probability from which on a pixel belongs to a mask.
    """

    @configurable
    def __init__(
        self,
        *,
        in_features: Sequence[str],
        strides: Sequence[int],
        channels: int,
        kernels: Sequence[int] = (5, 7),
        hidden: int = 512,
        mask_size: int = 14,
        batch_size_per_image: int = 128,
        positive_fraction: float = 0.25,
        mask_weight: float = 10.0,
        least_area: float = 100.0,
        least_side: float = 5.0,
        topk: int = 1000,
        mask_threshold: float = 0.2,
    ):
        super().__init__()
        self.in_features = list(in_features)
        self.strides = list(strides)
        self.kernels = list(kernels)
        self.windows = nn.ModuleList(WindowHead(channels, k, hidden=hidden, mask_size=mask_size) for k in kernels)
        self.mask_size = mask_size
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.mask_weight = mask_weight
        self.least_area, self.least_side = least_area, least_side
        self.topk = topk
        self.mask_threshold = mask_threshold

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """MODEL.MASK_PROPOSALS.

        Raises:
            ValueError: a level that the backbone lacks, levels of different widths, a value out of range, or
                MODEL.MASK_ON is off.
        """
        node = cfg.MODEL.MASK_PROPOSALS
        _check(cfg, input_shape)
        shapes = [input_shape[name] for name in node.IN_FEATURES]
        return {
            "in_features": node.IN_FEATURES,
            "strides": [shape.stride for shape in shapes],
            "channels": shapes[0].channels,
            "kernels": node.WINDOWS,
            "hidden": node.HIDDEN_DIM,
            "mask_size": node.MASK_SIZE,
            "batch_size_per_image": node.BATCH_SIZE_PER_IMAGE,
            "positive_fraction": node.POSITIVE_FRACTION,
            "mask_weight": node.MASK_WEIGHT,
            "least_area": node.LEAST_AREA,
            "least_side": node.LEAST_SIDE,
            "topk": node.TOPK_TEST,
            "mask_threshold": node.MASK_THRESH_TEST,
        }

    def forward(
        self, images: ImageList, features: dict[str, Tensor], gt_instances: list[Instances] | None = None
    ) -> tuple[list[Instances] | None, dict[str, Tensor]]:
        """What Detectron2 calls: in training (None, losses by name), else (proposals per image, {}).

        Args:
            images: the batch; its padded size must be what ``features`` were computed from.
            features: (N,C,h,w) by name.
            gt_instances: per image, with "gt_masks" if there are objects; in training.
        """
        levels = [features[name] for name in self.in_features]
        positions = Positions.of([level.shape[-2:] for level in levels], self.strides, levels[0].device)
        if self.training:
            targets = [self.targets(positions, *pair) for pair in zip(images.image_sizes, gt_instances)]
            return None, self.losses(levels, positions, targets, gt_instances)
        return self.inference(levels, positions, images.image_sizes), {}

    # -- training ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def targets(self, positions: Positions, size: tuple[int, int], objects: Instances) -> Tensor:
        """(W,P) int64: number of the object that a position predicts; -1: none; -2: outside of the image.

        Args:
            positions: P positions.
            size: (height, width) of the image without padding.
            objects: with "gt_masks" if there are objects.
        """
        device = positions.level.device
        boxes, usable = torch.zeros(0, 4, device=device), torch.zeros(0, dtype=torch.bool, device=device)
        if len(objects):
            masks = objects.gt_masks
            boxes = masks.get_bounding_boxes().tensor.to(device)
            area = masks.tensor.flatten(1).sum(dim=1) if isinstance(masks, BitMasks) else masks.area()
            sides = (boxes[:, 2:] - boxes[:, :2]).amin(dim=1)
            usable = (area.to(device) >= self.least_area) & (sides >= self.least_side)
        found = assign(positions, boxes, usable, strides=self.strides, kernels=self.kernels)
        return torch.where(positions.inside(size), found, -2)

    @torch.no_grad()
    def sample(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers of positive and negative entries of the flattened ``targets``, at random.

        At most ``positive_fraction`` of the samples are positive. Negatives fill the rest, also where there are fewer
        positives.
        """
        labels = torch.where(targets >= 0, 1, torch.where(targets == -1, 0, -1)).flatten()
        return subsample_labels(labels, self.batch_size_per_image, self.positive_fraction, 0)

    def losses(
        self, levels: Sequence[Tensor], positions: Positions, targets: Sequence[Tensor], objects: Sequence[Instances]
    ) -> dict[str, Tensor]:
        """Logistic losses: of scores, the mean over the samples; of masks, the mean over cells and positives.

        Without positives the loss of masks is 0 and every parameter has a gradient.

        Args:
            levels: (N,C,h,w) maps.
            positions: P positions.
            targets: per image, (W,P) from :meth:`targets`.
            objects: per image.
        """
        count = len(positions.level)
        scores, labels, masks, truths = [], [], [], []
        for image, (wanted, truth) in enumerate(zip(targets, objects)):
            positive, negative = self.sample(wanted)
            for number, window in enumerate(self.windows):
                own = [part[part.div(count, rounding_mode="floor") == number] % count for part in (positive, negative)]
                hidden = window.hidden_at([level[image] for level in levels], positions, torch.cat(own))
                scores.append(window.scores_of(hidden))
                labels.append(torch.cat([torch.ones(len(own[0])), torch.zeros(len(own[1]))]).to(scores[-1]))
                masks.append(window.masks_of(hidden[: len(own[0])]))
                if len(own[0]):
                    which = wanted[number, own[0]]
                    regions = positions.regions(own[0], window.kernel)
                    cut = truth.gt_masks[which].crop_and_resize(regions, self.mask_size)
                    truths.append(cut.to(device=scores[-1].device, dtype=scores[-1].dtype))
                else:
                    truths.append(masks[-1].detach())
        mask_logits = torch.cat(masks)
        with torch.autocast(mask_logits.device.type, enabled=False):
            score = F.binary_cross_entropy_with_logits(torch.cat(scores), torch.cat(labels))
            mask = F.binary_cross_entropy_with_logits(mask_logits, torch.cat(truths), reduction="sum")
        return {
            "loss_proposal_score": score,
            "loss_proposal_mask": self.mask_weight * mask / max(mask_logits.numel(), 1),
        }

    # -- inference ---------------------------------------------------------------------------------------------------

    def inference(
        self, levels: Sequence[Tensor], positions: Positions, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Instances]:
        """The ``topk`` best positions of all levels and windows, without non-maximum suppression; best first.

        Scores are computed at all positions, masks only at the best ones.

        Returns:
            Per image, ``objectness_logits`` and ``proposal_masks`` (:class:`RegionMasks`).
        """
        # One map of the hidden layer at a time: on P2 it takes 100 MB per image.
        scores = torch.stack(
            [torch.cat([window.scores(level).flatten(1) for level in levels], dim=1) for window in self.windows], dim=1
        )  # (N, W, P)
        count = len(positions.level)
        proposals = []
        for image, size in enumerate(image_sizes):
            candidates = scores[image].masked_fill(~positions.inside(size), -math.inf).flatten()
            logits, best = candidates.topk(min(self.topk, len(candidates)))
            best, logits = best[logits.isfinite()], logits[logits.isfinite()]
            probabilities = logits.new_zeros(len(best), self.mask_size, self.mask_size)
            regions = logits.new_zeros(len(best), 4)
            for number, window in enumerate(self.windows):
                here = (best.div(count, rounding_mode="floor") == number).nonzero()[:, 0]
                chosen = best[here] % count
                hidden = window.hidden_at([level[image] for level in levels], positions, chosen)
                probabilities[here] = window.masks_of(hidden).sigmoid()
                regions[here] = positions.regions(chosen, window.kernel)
            masks = RegionMasks(probabilities, regions, size, threshold=self.mask_threshold)
            proposals.append(Instances(tuple(size), objectness_logits=logits, proposal_masks=masks))
        return proposals


def _check(cfg: CfgNode, shapes: dict[str, ShapeSpec]) -> None:
    node, key = cfg.MODEL.MASK_PROPOSALS, "MODEL.MASK_PROPOSALS"
    require_features(f"{key}.IN_FEATURES", node.IN_FEATURES, shapes)
    widths = {name: shapes[name].channels for name in node.IN_FEATURES}
    if len(set(widths.values())) > 1:
        raise ValueError(f"{key}.IN_FEATURES: windows are shared, so all levels need the same width; got {widths}")
    if not node.WINDOWS or any(k < 1 or k % 2 == 0 for k in node.WINDOWS):
        raise ValueError(f"{key}.WINDOWS = {list(node.WINDOWS)}: give odd numbers of cells, for example [5, 7]")
    scales = [object_scale(k) for k in node.WINDOWS]
    if len(set(scales)) < len(scales):
        raise ValueError(f"{key}.WINDOWS = {list(node.WINDOWS)}: two of them are for objects of the same scale")
    for name in ("HIDDEN_DIM", "MASK_SIZE", "BATCH_SIZE_PER_IMAGE", "TOPK_TEST"):
        if node[name] < 1:
            raise ValueError(f"{key}.{name} = {node[name]}: it must be at least 1")
    for name in ("POSITIVE_FRACTION", "MASK_THRESH_TEST"):
        if not 0 < node[name] < 1:
            raise ValueError(f"{key}.{name} = {node[name]}: it must be between 0 and 1")
    if not cfg.MODEL.MASK_ON:
        raise ValueError("MaskProposals learns from masks: set MODEL.MASK_ON True, otherwise they are not read")
