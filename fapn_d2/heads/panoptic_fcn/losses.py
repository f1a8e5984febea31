"""The four losses of PanopticFCN: Section 3.3, Equations 4 to 8."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torchvision.ops import sigmoid_focal_loss

from ...layers.losses import squared_dice_loss
from ...layers.operator_support import at_least_float32
from .kernel_head import KernelEmbedding, mask_logits
from .targets import Targets

#: A cell may provide a kernel of an object if the object's mask, resized to the level, is above this.
_LEAST_GUIDE = 0.1
#: Pixels of predicted masks that exist at a time: 100 masks of 200 x 336, which are those of an image of 800 x 1344.
_CHUNK_PIXELS = 100 * 200 * 336


@dataclass(frozen=True)
class Predictions:
    """The outputs of the heads for a batch. Lists have one entry per level, finest first."""

    centers: list[Tensor]  #: (N,K,h,w) logits
    regions: list[Tensor]  #: (N,S,h,w) logits
    kernels: list[Tensor]  #: (N,C,h,w)
    encoded: Tensor  #: (N,E,H,W)


class PanopticFCNLosses:
    """Losses of positions (focal) and of masks (dice), for things and for stuff.

    Normalisers count the objects of this process, as in the official code.

    Args:
        num_kernels: the number of positions per object and level whose kernels are trained: the positions with the best
            scores inside the object. A level with fewer cells provides all of them.
        position_weight, segment_weight: the factors on the two pairs of losses.
        alpha, gamma: the parameters of the focal loss.
        chunk_pixels: pixels of predicted masks that exist at a time. Masks are made again in the backward pass, so that
            memory does not grow with the number of objects.
    """

    def __init__(
        self,
        *,
        num_kernels: int,
        position_weight: float,
        segment_weight: float,
        alpha: float,
        gamma: float,
        chunk_pixels: int = _CHUNK_PIXELS,
    ):
        self.num_kernels = num_kernels
        self.position_weight = position_weight
        self.segment_weight = segment_weight
        self.alpha = alpha
        self.gamma = gamma
        self.chunk_pixels = chunk_pixels

    def __call__(
        self, predictions: Predictions, targets: Targets, embed_thing: KernelEmbedding, embed_stuff: KernelEmbedding
    ) -> dict[str, Tensor]:
        """Scalars "loss_pos_th", "loss_pos_st", "loss_seg_th" and "loss_seg_st", weighted.

        Without objects or without regions, the respective loss of masks is 0, and its gradients are 0.
        """
        num_objects = max(sum(len(x) for of_images in targets.objects for x in of_images), 1)
        centers = sum(self._focal(x, t).sum() for x, t in zip(predictions.centers, targets.centers))
        regions = sum(self._focal(x, t).mean(dim=(2, 3)).sum() for x, t in zip(predictions.regions, targets.regions))
        return {
            "loss_pos_th": self.position_weight * centers / num_objects,
            "loss_pos_st": self.position_weight * regions / len(predictions.encoded),
            "loss_seg_th": self.segment_weight * self._things(predictions, targets, embed_thing) / num_objects,
            "loss_seg_st": self.segment_weight * self._stuff(predictions, targets, embed_stuff),
        }

    def _focal(self, logits: Tensor, target: Tensor) -> Tensor:
        return sigmoid_focal_loss(precise(logits), target, alpha=self.alpha, gamma=self.gamma)

    def _things(self, predictions: Predictions, targets: Targets, embed: KernelEmbedding) -> Tensor:
        """Sum over all pairs of an object and a level."""
        total = _nothing(predictions, embed)
        for level, of_images in enumerate(targets.objects):
            for image, objects in enumerate(of_images):
                if not len(objects):
                    continue
                masks = targets.masks[image][objects]
                logits = precise(predictions.centers[level][image][targets.classes[image][objects]])
                guide = F.interpolate(masks[None], size=logits.shape[1:], mode="bilinear", align_corners=False)[0]
                scores = torch.where(guide > _LEAST_GUIDE, logits.sigmoid(), 0).flatten(1)
                scores, cells = scores.topk(min(self.num_kernels, scores.shape[1]), dim=1)
                weights = scores / scores.sum(dim=1, keepdim=True).clamp(min=1e-8)
                kernels = predictions.kernels[level][image].flatten(1)[:, cells.flatten()]
                kernels = embed(kernels.T).view(*cells.shape, -1)
                losses = self._dice(kernels, predictions.encoded[image], targets.masks[image], objects)
                total = total + (weights * losses).sum()
        return total

    def _stuff(self, predictions: Predictions, targets: Targets, embed: KernelEmbedding) -> Tensor:
        """Mean over all triples of an image, a level and a class that occurs."""
        kernels = torch.stack(
            [region_kernels(k, t > 0) for k, t in zip(predictions.kernels, targets.regions)], dim=1
        )  # (N, levels, S, C)
        there = torch.stack([t.flatten(2).any(dim=2) for t in targets.regions], dim=1).nonzero()
        images, levels, classes = there.unbind(1)
        embedded = embed(kernels[images, levels, classes])
        counts = torch.bincount(images, minlength=len(kernels)).tolist()
        total = _nothing(predictions, embed)
        for image, (of_image, present) in enumerate(zip(embedded.split(counts), classes.split(counts))):
            losses = self._dice(of_image[:, None], predictions.encoded[image], targets.semantic[image], present)
            total = total + losses.sum()
        return total / max(len(there), 1)

    def _dice(self, kernels: Tensor, encoded: Tensor, masks: Tensor, index: Tensor) -> Tensor:
        """Dice losses (M,J) of J kernels for each of M masks, so many masks at a time as `chunk_pixels` allows.

        Args:
            kernels: (M,J,E).
            encoded: (E,H,W), of the image.
            masks: (T,H,W), all that the image has.
            index: (M,) which of them is each one's.
        """
        pixels = kernels.shape[1] * encoded[0].numel()
        count = max(1, self.chunk_pixels // pixels)
        parts = [
            checkpoint(_dice_of_kernels, k, encoded, masks, i, use_reentrant=False, preserve_rng_state=False)
            for k, i in zip(kernels.split(count), index.split(count))
        ]
        return torch.cat(parts)


def _dice_of_kernels(kernels: Tensor, encoded: Tensor, masks: Tensor, index: Tensor) -> Tensor:
    logits = mask_logits(kernels.flatten(0, 1), encoded)
    return squared_dice_loss(logits.flatten(1).unflatten(0, kernels.shape[:2]), masks[index].flatten(1))


def region_kernels(kernels: Tensor, regions: Tensor) -> Tensor:
    """Kernels of regions: the mean over **all** cells of the kernel map that is 0 outside the region.

    Args:
        kernels: the kernel maps (N,C,h,w).
        regions: the regions (N,S,h,w), bool.

    Returns:
        The kernels (N,S,C). Their length decreases with the area of the region. A mean over the region alone would give
        a different network.
    """
    cells = regions.shape[2] * regions.shape[3]
    return torch.einsum("nchw,nshw->nsc", kernels, regions.to(kernels.dtype)) / cells


def _nothing(predictions: Predictions, embed: KernelEmbedding) -> Tensor:
    """A zero that depends on all inputs of the masks, so that every parameter has a gradient in every process."""
    parts = [predictions.encoded, *predictions.kernels]
    return sum(precise(x).mean() * 0 for x in parts) + embed(parts[-1].flatten(2)[0, :, :1].T).sum() * 0


def precise(x: Tensor) -> Tensor:
    """``x`` in float32, or in float64 if it has that type: for losses and scores under autocast."""
    return at_least_float32(x.dtype, x)[0]
