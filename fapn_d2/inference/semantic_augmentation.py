"""Semantic scores averaged over sizes and mirror images as Detectron2 makes them: TEST.AUG for MaskFormer.

TEST.AUG lists short sides in pixels, and Pillow resizes the images, as in the official code of MaskFormer (Cheng et
al., NeurIPS 2021). ``inference/semantic.py`` (TEST.SEM_SEG) has factors on the image size and windows instead.
"""

import copy

import torch
from detectron2.config import CfgNode
from detectron2.modeling import DatasetMapperTTA
from fvcore.transforms.transform import HFlipTransform
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class AugmentedSegmentor(nn.Module):
    """A semantic network that sees several sizes of an image and their mirror images; for inference only.

    The result is the mean of the scores at the image's original size. Views go through the network one by one.

    Args:
        model: the network, from a list of dicts with "image", "height" and "width" to a list of dicts with "sem_seg"
            (K, height, width).
        views: the function from a sample to its views, with their transforms.
    """

    def __init__(self, model: nn.Module, views: DatasetMapperTTA):
        super().__init__()
        self.model = model.module if isinstance(model, DistributedDataParallel) else model
        self.training = model.training  # so that switching to evaluation and back restores the mode of the model
        self.views = views

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """As the model, one image after the other."""
        return [{"sem_seg": self._mean(sample)} for sample in batched_inputs]

    def _mean(self, sample: dict) -> Tensor:
        sample = copy.copy(sample)
        size = sample["image"].shape[-2:]
        sample.setdefault("height", size[0])
        sample.setdefault("width", size[1])
        views = self.views(sample)
        total = None
        for view in views:
            transforms = view.pop("transforms").transforms
            (output,) = self.model([view])
            scores = output["sem_seg"]
            if any(isinstance(t, HFlipTransform) for t in transforms):
                scores = scores.flip(-1)
            total = scores if total is None else total.add_(scores)
        return total / len(views)


def augmented_segmentor(cfg: CfgNode, model: nn.Module) -> AugmentedSegmentor:
    """``model`` applied to each image in the sizes of TEST.AUG, with averaged scores."""
    return AugmentedSegmentor(model, DatasetMapperTTA(cfg))
