"""Semantic segmentation of windows, at several scales, and of mirror images, with any network.

Letters: K classes; h, w the size of the image that the loader gives; H, W that of the data set's image, which the
scores have at the end.
"""

import itertools
import sys
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import GeneralizedRCNN, ProposalNetwork
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from ..meta_arch.mask_former import MaskFormer, PanopticMaskFormer
from .views import SECTION, Views

_BAR_AFTER = 3.0  # seconds that an image may take before it gets a bar


class SemanticInference(nn.Module):
    """A semantic network that sees windows, several scales and mirror images of each image; for inference only.

    Every scale, mirrored or not, gives scores of (K, H, W); the result is their mean. Scores of windows are first
    averaged where windows overlap, and then resized as Detectron2 resizes scores. Memory holds the scores of
    ``views.batch`` windows and at most three maps of (K, H, W) at a time. Means are running means, so if all
    predictions are equal, the result equals them to the last bit.

    Args:
        model: network from a list of dicts with "image" (C, h, w), "height" H and "width" W to a list of dicts with
            "sem_seg" (K, H, W) logits and no other output.
        views: the windows, scales and mirror images.
        pixel_mean: colour for the padding of images that are smaller than a window, one number per channel.
    """

    def __init__(self, model: nn.Module, *, views: Views, pixel_mean: Sequence[float]):
        super().__init__()
        self.model = model.module if isinstance(model, DistributedDataParallel) else model
        self.training = model.training  # so that switching to evaluation and back restores the mode of the model
        self.views = views
        self._pixel_mean = tuple(pixel_mean)

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """A dict with "sem_seg" for each image, as from the model. Images are processed one after the other.

        The scores are means of logits with ``average="logits"``, else means of probabilities; float32 or more precise.

        Raises:
            ValueError: the model does not return semantic scores alone.
        """
        return [{"sem_seg": self._scores(sample)} for sample in batched_inputs]

    def _scores(self, sample: dict) -> Tensor:
        """(K, H, W) mean over all views of an image."""
        image = sample["image"].to(next(self.model.parameters(), sample["image"]).device)
        h, w = image.shape[-2:]
        size = (sample.get("height", h), sample.get("width", w))
        sizes = [(scale, (max(round(h * scale), 1), max(round(w * scale), 1))) for scale in self.views.scales]
        mirrorings = (False, True) if self.views.flip else (False,)
        mean, n = None, 0
        with _bar(len(mirrorings) * sum(self._count(*scaled) for scaled in sizes)) as bar:
            for (scale, scaled), mirrored in itertools.product(sizes, mirrorings):
                view = resize_image(image, scaled)
                scores = self._of_view(view.flip(-1) if mirrored else view, size, scale, bar)
                scores = scores.flip(-1) if mirrored else scores
                n += 1
                mean = scores if mean is None else mean.lerp_(scores, 1 / n)
        return mean

    def _count(self, scale: float, size: tuple[int, int]) -> int:
        """Number of windows of an image of ``size``."""
        windows = self.views.windows
        if windows is None:
            return 1
        rows, columns = (len(windows.starts(max(s, c), c)) for s, c in zip(size, windows.at(scale)))
        return rows * columns

    def _of_view(self, view: Tensor, size: tuple[int, int], scale: float, bar: tqdm) -> Tensor:
        """(K, H, W) scores of a (C, h, w) view, on the device of the averages."""
        if self.views.windows is None:
            (scores,) = self._predict([view], size)
            bar.update()
            return scores.to(self.views.accumulate or scores.device)
        inside = tuple(view.shape[-2:])
        mean = self._slide(self._padded(view, self.views.windows.at(scale)), scale, bar)
        if inside == tuple(mean.shape[-2:]) == size:
            return mean
        return sem_seg_postprocess(mean, inside, *size)  # this also cuts off the padding

    def _slide(self, view: Tensor, scale: float, bar: tqdm) -> Tensor:
        """(K, h, w) scores of a (C, h, w) view, averaged over windows."""
        windows, (h, w) = self.views.windows, view.shape[-2:]
        ch, cw = windows.at(scale)
        corners = [(y, x) for y in windows.starts(h, ch) for x in windows.starts(w, cw)]
        mean, seen = None, None
        for first in range(0, len(corners), self.views.batch):
            part = corners[first : first + self.views.batch]
            predictions = self._predict([view[:, y : y + ch, x : x + cw] for y, x in part], (ch, cw))
            if mean is None:
                device = self.views.accumulate or predictions[0].device
                mean = torch.zeros(len(predictions[0]), h, w, dtype=predictions[0].dtype, device=device)
                seen = mean.new_zeros(h, w)
            for (y, x), scores in zip(part, predictions):
                rows, columns = slice(y, y + ch), slice(x, x + cw)
                seen[rows, columns] += 1
                mean[:, rows, columns].lerp_(scores.to(mean.device), 1 / seen[rows, columns])
            bar.update(len(part))
        return mean

    def _padded(self, view: Tensor, size: tuple[int, int]) -> Tensor:
        """The view padded to at least ``size``, with the mean colour at the bottom and on the right."""
        h, w = view.shape[-2:]
        if h >= size[0] and w >= size[1]:
            return view
        color = torch.tensor(self._pixel_mean, device=view.device).view(-1, 1, 1)
        color = color if view.is_floating_point() else color.round()
        padded = color.to(view.dtype).repeat(1, max(h, size[0]), max(w, size[1]))
        padded[:, :h, :w] = view
        return padded

    def _predict(self, images: list[Tensor], size: tuple[int, int]) -> list[Tensor]:
        """(K, H, W) scores of each image at ``size``, in the form that is averaged."""
        outputs = self.model([{"image": image, "height": size[0], "width": size[1]} for image in images])
        return [self._checked(output) for output in outputs]

    def _checked(self, output: dict) -> Tensor:
        if not isinstance(output, dict) or set(output) != {"sem_seg"}:
            found = ", ".join(output) if isinstance(output, dict) else type(output).__name__
            raise ValueError(
                f"{SECTION} averages semantic scores, but {type(self.model).__name__} returns {found} for an image; "
                'leave its keys at their defaults, or return {"sem_seg": (K, height, width)} alone'
            )
        scores = output["sem_seg"]
        scores = scores if scores.dtype == torch.float64 else scores.float()
        return scores.softmax(dim=0) if self.views.average == "probabilities" else scores


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(C, *size) of the type of ``image`` (C, h, w), antialiased if it gets smaller, as by Pillow's bilinear filter."""
    if tuple(image.shape[-2:]) == size:
        return image
    wide = image if image.dtype == torch.float64 else image.float()
    resized = F.interpolate(wide[None], size, mode="bilinear", align_corners=False, antialias=True)[0]
    return (resized if image.is_floating_point() else resized.round()).to(image.dtype)


def check_inference(cfg: CfgNode) -> Views:
    """The settings of TEST.SEM_SEG, checked as far as possible without a network.

    Raises:
        ValueError: values are out of range, or the network is known to have other outputs than semantic scores.
    """
    views = Views.from_config(cfg)
    name = cfg.MODEL.META_ARCHITECTURE
    detectors = (GeneralizedRCNN, DenseDetector, ProposalNetwork, PanopticMaskFormer)
    if not views.plain and name in META_ARCH_REGISTRY and issubclass(META_ARCH_REGISTRY.get(name), detectors):
        raise ValueError(
            f"{SECTION} averages semantic scores (its MODE, SCALES or FLIP is set), but MODEL.META_ARCHITECTURE "
            f"{name} predicts objects; leave these keys at their defaults, or use a SemanticSegmentor"
        )
    if views.average == "probabilities" and name == MaskFormer.__name__:
        raise ValueError(
            f'{SECTION}.AVERAGE is "probabilities", but scores of MaskFormer are sums of probabilities already, which '
            'have no softmax; set it to "logits", which averages them as they are'
        )
    return views


def build_inference(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """``model`` with the inference of TEST.SEM_SEG: unchanged with the defaults, else in a :class:`SemanticInference`.

    Raises:
        ValueError: see :func:`check_inference`.
    """
    views = check_inference(cfg)
    return model if views.plain else SemanticInference(model, views=views, pixel_mean=cfg.MODEL.PIXEL_MEAN)


def _bar(total: int) -> tqdm:
    """A progress bar for an image of many windows; evaluation itself logs the progress over images."""
    interval = 0.5 if sys.stderr.isatty() else 20  # without a terminal, each refresh adds a line to the log
    return tqdm(
        total=total,
        unit="window",
        delay=_BAR_AFTER,
        mininterval=interval,
        maxinterval=interval,
        leave=False,
        disable=not comm.is_main_process(),
    )
