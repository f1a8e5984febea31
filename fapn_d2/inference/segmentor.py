"""A semantic network as one module: image in, logits out."""

from detectron2.modeling.meta_arch import SemanticSegmentor
from torch import Tensor, nn
from torch.nn import functional as F

from ..meta_arch.whole_image_segmentor import WholeImageSegmentor


class ExportedSegmentor(nn.Module):
    """A semantic network in the form for a file: image in, logits of its pixels out, with all pre- and postprocessing.

    Args:
        segmentor: a trained ``SemanticSegmentor`` or ``WholeImageSegmentor``; put into evaluation mode.
        labels: whether to return the classes with the highest logits as a second output.

    Raises:
        ValueError: the network is of another kind, or pads images to squares.
    """

    def __init__(self, segmentor: nn.Module, *, labels: bool = False):
        super().__init__()
        if not isinstance(segmentor, SemanticSegmentor):
            raise ValueError(
                f"{type(segmentor).__name__} cannot be exported: only networks that give semantic logits and nothing "
                "else can, that is MODEL.META_ARCHITECTURE SemanticSegmentor or WholeImageSegmentor"
            )
        constraints = segmentor.backbone.padding_constraints
        if constraints.get("square_size", 0) > 0:
            raise ValueError(f"{type(segmentor.backbone).__name__} pads images to squares, which is not exported")
        self.segmentor = segmentor
        self.labels = labels
        self.padded_to = max(1, constraints.get("size_divisibility", segmentor.backbone.size_divisibility))
        self.whole = isinstance(segmentor, WholeImageSegmentor)
        self.eval()

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """(N,3,H,W), 0 to 255, uint8 or float -> logits (N,K,H,W), and with ``labels`` classes (N,H,W) int64."""
        net = self.segmentor
        height, width = image.shape[-2:]
        x = (image.to(net.pixel_mean.dtype) - net.pixel_mean) / net.pixel_std
        if self.whole:
            logits, _ = net.sem_seg_head(net.backbone(x), size=(height, width))
        else:
            # In this form, and not as -width % 32, the exporter needs half of the time for free sizes.
            right, below = (
                (side + self.padded_to - 1) // self.padded_to * self.padded_to - side for side in (width, height)
            )
            x = F.pad(x, (0, right, 0, below))
            logits, _ = net.sem_seg_head(net.backbone(x))
            logits = logits[..., :height, :width]
        return (logits, logits.argmax(dim=1)) if self.labels else logits
