"""What a network that segments images of any size expects of its semantic head."""

from torch import Tensor, nn


class SizedHead(nn.Module):
    """A semantic head that can be told the size of its logits, as ``WholeImageSegmentor`` does.

    Detectron2's heads compute the size from their finest map and its stride. That is wrong where the sizes of maps were
    rounded. A head of your own derives from this class and takes ``size`` in ``forward``.
    """

    def forward(
        self, features: dict[str, Tensor], targets: Tensor | None = None, *, size: tuple[int, int] | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """What ``WholeImageSegmentor`` and Detectron2's ``SemanticSegmentor`` and ``PanopticFPN`` call.

        Args:
            features: maps by name.
            targets: the labels (N,H,W) of the padded images, in training.
            size: (H,W) of the images as they entered the backbone; None: the finest level's size times its stride.

        Returns:
            In training (None, losses by name), else (logits (N,K,H,W) for K classes, {}).
        """
        raise NotImplementedError
