"""From the heads' predictions to objects and regions: PanopticFCN, Section 3.3, "Inference"."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import BitMasks, Instances
from torch import Tensor
from torch.nn import functional as F

from .kernel_fusion import fuse_stuff, fuse_things
from .kernel_head import KernelEmbedding, mask_logits
from .losses import Predictions, precise, region_kernels

#: The number of masks that are enlarged to the size of the image at a time.
_CHUNK = 16


@dataclass(frozen=True)
class Candidates:
    """Kernels of one image with their classes and scores, from one level or from several."""

    kernels: Tensor  #: (M,C), or (M,E) after the embedding
    classes: Tensor  #: (M,) int64
    scores: Tensor  #: (M,), 0 to 1


class PanopticFCNInference:
    """Chooses kernels, joins them, and computes masks from them.

    Args:
        thing_thresh: the lowest score of an object's centre.
        stuff_thresh: the lowest mean score of a region.
        mask_thresh: the lowest score of a pixel of an object.
        score_thresh: the lowest final score of an object: its centre's score times the mean score of its pixels.
        least_similarity: the lowest cosine of two kernels of a class that are joined to one object.
        max_objects: the largest number of objects per image. Each level provides at most half as many centres.
        smoothing: for each level the side, in cells, of the square over which centre scores are averaged.
    """

    def __init__(
        self,
        *,
        thing_thresh: float,
        stuff_thresh: float,
        mask_thresh: float,
        score_thresh: float,
        least_similarity: float,
        max_objects: int,
        smoothing: Sequence[int],
    ):
        self.thing_thresh = thing_thresh
        self.stuff_thresh = stuff_thresh
        self.mask_thresh = mask_thresh
        self.score_thresh = score_thresh
        self.least_similarity = least_similarity
        self.max_objects = max_objects
        self.smoothing = tuple(smoothing)

    def __call__(
        self,
        predictions: Predictions,
        embed_thing: KernelEmbedding,
        embed_stuff: KernelEmbedding,
        *,
        image: int,
        input_size: tuple[int, int],
        output_size: tuple[int, int],
    ) -> tuple[Instances, Tensor]:
        """Objects and semantic scores of one image of a batch.

        Args:
            predictions: the predictions for the batch.
            embed_thing, embed_stuff: the last layers of the kernels.
            image: the index of the image in the batch.
            input_size: the height and width of the image in the input, without padding.
            output_size: the height and width of the results.

        Returns:
            ``Instances`` of ``output_size`` with ``pred_boxes``, ``pred_masks`` (bool), ``scores`` and
            ``pred_classes``, best first; and (S, height, width) scores, 0 for classes that were not found.
        """
        encoded = predictions.encoded[image]
        things = _joined(
            [
                self.things(centers[image], kernels[image], smoothing)
                for centers, kernels, smoothing in zip(predictions.centers, predictions.kernels, self.smoothing)
            ]
        )
        stuff = _joined(
            [
                self.stuff(regions[image], kernels[image])
                for regions, kernels in zip(predictions.regions, predictions.kernels)
            ]
        )
        objects = self._objects(things, embed_thing, encoded, input_size, output_size)
        num_classes = predictions.regions[0].shape[1]
        return objects, self._semantic(stuff, embed_stuff, encoded, num_classes, input_size, output_size)

    def things(self, centers: Tensor, kernels: Tensor, smoothing: int) -> Candidates:
        """Objects of a level: the peaks of its smoothed centre scores, best first.

        Args:
            centers: the logits (K,h,w).
            kernels: the kernel map (C,h,w).
            smoothing: the side of the square that is averaged. Positions outside of the map count as zeros.
        """
        scores = precise(centers).sigmoid()[None]
        scores = (scores + F.avg_pool2d(scores, smoothing, stride=1, padding=smoothing // 2)) / 2
        peaks = F.max_pool2d(scores, 3, stride=1, padding=1) == scores
        scores = torch.where(peaks, scores, 0)[0]
        cells = scores.shape[1] * scores.shape[2]
        scores, places = scores.flatten().topk(min(cells, self.max_objects // 2))
        kept = scores > self.thing_thresh
        scores, places = scores[kept], places[kept]
        return Candidates(kernels.flatten(1)[:, places % cells].T, places // cells, scores)

    def stuff(self, regions: Tensor, kernels: Tensor) -> Candidates:
        """Regions of a level, in the order of class numbers: every cell belongs to its best class.

        Args:
            regions: the logits (S,h,w).
            kernels: the kernel map (C,h,w).
        """
        scores = precise(regions).sigmoid()
        best, owners = scores.flatten(1).max(dim=0)
        members = owners == torch.arange(len(scores), device=scores.device)[:, None]
        counts = members.sum(dim=1)
        means = torch.where(members, best, 0).sum(dim=1) / counts.clamp(min=1)
        classes = ((counts > 0) & (means > self.stuff_thresh)).nonzero()[:, 0]
        masks = members[classes].unflatten(1, scores.shape[1:])
        return Candidates(region_kernels(kernels[None], masks[None])[0], classes, means[classes])

    def _objects(self, found: Candidates, embed, encoded, input_size, output_size) -> Instances:
        order = found.scores.argsort(descending=True, stable=True)
        kernels, classes, scores = fuse_things(
            embed(found.kernels[order]),
            found.classes[order],
            found.scores[order],
            least_similarity=self.least_similarity,
        )
        masks = precise(mask_logits(kernels, encoded)).sigmoid()
        filled = masks > self.mask_thresh
        scores = scores * torch.where(filled, masks, 0).sum(dim=(1, 2)) / (filled.sum(dim=(1, 2)) + 1e-6)
        order = scores.argsort(descending=True, stable=True)[: self.max_objects]
        order = order[scores[order] >= self.score_thresh]
        full = [_enlarged(chunk, input_size, output_size) > self.mask_thresh for chunk in masks[order].split(_CHUNK)]
        full = torch.cat(full)
        return Instances(
            output_size,
            pred_boxes=BitMasks(full).get_bounding_boxes().to(masks.device),
            pred_masks=full,
            scores=scores[order],
            pred_classes=classes[order],
        )

    def _semantic(self, found: Candidates, embed, encoded, num_classes, input_size, output_size) -> Tensor:
        kernels, classes, _ = fuse_stuff(embed(found.kernels), found.classes, found.scores, num_classes=num_classes)
        masks = precise(mask_logits(kernels, encoded)).sigmoid()
        scores = torch.zeros(num_classes, *output_size, dtype=masks.dtype, device=masks.device)
        for of_classes, chunk in zip(classes.split(_CHUNK), masks.split(_CHUNK)):
            scores[of_classes] = _enlarged(chunk, input_size, output_size)
        return scores


def _enlarged(masks: Tensor, input_size: tuple[int, int], output_size: tuple[int, int]) -> Tensor:
    """(M,H,W) at stride 4 -> (M, height, width): resized to the input, cropped to the image, resized to the output."""
    if not len(masks):  # which ``F.interpolate`` refuses
        return masks.new_zeros(0, *output_size)
    masks = F.interpolate(masks[None], scale_factor=4, mode="bilinear", align_corners=False)[0]
    return sem_seg_postprocess(masks, input_size, *output_size)


def _joined(levels: list[Candidates]) -> Candidates:
    parts = ("kernels", "classes", "scores")
    return Candidates(*(torch.cat([getattr(level, part) for level in levels]) for part in parts))
