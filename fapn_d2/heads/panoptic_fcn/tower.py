"""The hidden layers of all heads of PanopticFCN."""

from torch import Tensor, nn

from ...layers.conv import conv_norm_relu
from ...layers.coordinates import append_coordinates
from ...layers.deform_norm_relu import DeformConvNormRelu


class Tower(nn.Sequential):
    """3x3 convolutions with norm and ReLU, on a map that may get two channels of coordinates first.

    Args:
        in_channels: the number of channels of the map, without the coordinates.
        channels: the number of channels of each layer.
        num_convs: the number of layers.
        norm: a name for Detectron2's ``get_norm``. A layer without a norm has a bias, unless it is deformable.
        coordinates: whether the map gets the two channels of ``append_coordinates``.
        deformable: whether convolutions are modulated deformable ones.
        backend: the backend of the deformable convolutions; None: the process's choice.

    Shapes: (N, in_channels, h, w) -> (N, channels, h, w).

    Raises:
        ValueError: ``num_convs`` is below 1.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_convs: int,
        *,
        norm: str,
        coordinates: bool,
        deformable: bool,
        backend: str | None = None,
    ):
        if num_convs < 1:
            raise ValueError(f"NUM_CONVS = {num_convs}: a head of PanopticFCN needs at least one hidden layer")
        layers, width = [], in_channels + 2 * coordinates
        for _ in range(num_convs):
            if deformable:
                layers.append(DeformConvNormRelu(width, channels, norm=norm, backend=backend))
            else:
                layers.append(conv_norm_relu(width, channels, norm=norm, kernel_size=3))
            width = channels
        super().__init__(*layers)
        self.coordinates = coordinates

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(append_coordinates(x) if self.coordinates else x)


def predictor(in_channels: int, out_channels: int, *, bias: float = 0.0, kernel_size: int = 3) -> nn.Conv2d:
    """The last layer of a head: a convolution with weights from N(0, 0.01) and all biases equal to ``bias``."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.constant_(conv.bias, bias)
    return conv
