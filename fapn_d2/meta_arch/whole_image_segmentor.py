"""Semantic segmentation without padding, for networks that take images of any size."""

from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import SemanticSegmentor
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import ImageList
from torch import Tensor, nn

from ..heads.sized_head import SizedHead


@META_ARCH_REGISTRY.register()
class WholeImageSegmentor(SemanticSegmentor):
    """Detectron2's ``SemanticSegmentor`` without padding to a multiple of the coarsest stride.

    SFNet segments images of 360x480 pixels, whose coarsest map is 12x15. With padding, pyramid pooling would average
    over the border too. The head is told the size of the images, because the size cannot be computed from a map whose
    size was rounded. So the logits have the same positions as in training. Images of several sizes in a batch are
    padded to the largest one.

    Raises:
        ValueError: the head is not a ``SizedHead``.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        _check_head(self.sem_seg_head)

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """As Detectron2's: losses by name in training, else a dict with "sem_seg" (K, height, width) for each image."""
        images = [(x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs]
        images = ImageList.from_tensors(images)
        features = self.backbone(images.tensor)
        if self.training:
            _, losses = self.sem_seg_head(features, self._targets(batched_inputs))
            return losses
        logits, _ = self.sem_seg_head(features, size=tuple(images.tensor.shape[-2:]))
        return [
            {"sem_seg": sem_seg_postprocess(result, size, x.get("height", size[0]), x.get("width", size[1]))}
            for result, x, size in zip(logits, batched_inputs, images.image_sizes)
        ]

    def _targets(self, batched_inputs: list[dict]) -> Tensor | None:
        if any("sem_seg" not in x for x in batched_inputs):
            return None
        targets = [x["sem_seg"].to(self.device) for x in batched_inputs]
        return ImageList.from_tensors(targets, pad_value=self.sem_seg_head.ignore_value).tensor


def _check_head(head: nn.Module) -> None:
    if not isinstance(head, SizedHead):
        raise ValueError(
            f"MODEL.META_ARCHITECTURE WholeImageSegmentor tells its head the size of the images, which "
            f"{type(head).__name__} does not take; use SemanticSegmentor, or one of AlignedDecoderHead, SingleLevelHead"
        )
