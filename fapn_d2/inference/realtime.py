"""Semantic networks at fixed size, as fast as the device allows: folding, layout, precision, compilation, CUDA graph.

Legend: N images, K classes, H x W size of the images.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..layers.deform_conv.module import ModulatedDeformConv2d
from ..meta_arch.acceleration import check_compiler, compile_in_place
from .norm_folding import fold_norms
from .segmentor import ExportedSegmentor

OUTPUTS = ("labels", "logits")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class RealTimeSegmentor(nn.Module):
    """A trained semantic network for images of one size::

        fast = RealTimeSegmentor(model, (1024, 2048), dtype=torch.bfloat16, channels_last=True, cuda_graph=True)
        labels = fast(images)

    The network is copied, so ``model`` does not change. The first call takes long, because it compiles and records.

    Args:
        model: a ``SemanticSegmentor`` or ``WholeImageSegmentor`` on the device where it will run.
        size: the (H, W) of all images in pixels.
        batch: the number of images N.
        output: "labels" or "logits".
        dtype: the type of autocast; float32 means no autocast. Weights of convolutions are rounded once, not per call.
        channels_last: whether weights and maps have this memory layout.
        compile: whether to compile with ``torch.compile``, for this size alone.
        cuda_graph: whether to replay all kernels as one launch. The next call overwrites the results: copy those that
            you keep.
        fold: whether to fold batch normalisations into convolutions; see ``fold_norms``.

    Raises:
        ValueError: the model is not a semantic network, the output or dtype is unknown, a CUDA graph or float16 is
            requested without CUDA, or ``compile`` without a compiler.
    """

    def __init__(
        self,
        model: nn.Module,
        size: tuple[int, int],
        *,
        batch: int = 1,
        output: str = "labels",
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        compile: bool = False,
        cuda_graph: bool = False,
        fold: bool = False,
    ):
        super().__init__()
        self.shape = (batch, 3, *size)
        self.device = next(model.parameters()).device
        if output not in OUTPUTS:
            raise ValueError(f"output {output!r} of a RealTimeSegmentor; allowed: {', '.join(OUTPUTS)}")
        if dtype not in DTYPES or (dtype is torch.float16 and self.device.type == "cpu"):
            raise ValueError(f"a RealTimeSegmentor cannot compute in {dtype} on {self.device}")
        if cuda_graph:
            check_cuda_graph(self.device)
        network = ExportedSegmentor(copy.deepcopy(model)).requires_grad_(False)
        if fold:
            fold_norms(network)
        if channels_last:
            network.to(memory_format=torch.channels_last)
        if dtype is not torch.float32:
            _round_weights(network, dtype)
        self.network = _Network(network, output, dtype)
        if compile:
            check_compiler(self.device)
            compile_in_place(self.network, dynamic=False)
        self.cuda_graph = cuda_graph
        self._replay: Callable[[Tensor], Tensor] | None = None

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Images (N,3,H,W), 0 to 255, uint8 or float, in the colour order of the config, on any device.

        Returns:
            Labels (N,H,W), uint8 for up to 256 classes, else int16; or logits (N,K,H,W). On the network's device.

        Raises:
            ValueError: the images have another shape.
        """
        if tuple(images.shape) != self.shape:
            raise ValueError(f"this RealTimeSegmentor is for images {self.shape}, got {tuple(images.shape)}")
        if not self.cuda_graph:
            return self.network(images.to(self.device))
        if self._replay is None:
            self._replay = graphed(self.network, images.to(self.device))
        return self._replay(images)


class _Network(nn.Module):
    """The part that is compiled and recorded: everything between images and output on the device."""

    def __init__(self, segmentor: ExportedSegmentor, output: str, dtype: torch.dtype):
        super().__init__()
        self.segmentor, self.output, self.dtype = segmentor, output, dtype

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, dtype=self.dtype, enabled=self.dtype is not torch.float32):
            logits = self.segmentor(images)
        if self.output == "logits":
            return logits
        return logits.argmax(dim=1).to(torch.uint8 if logits.shape[1] <= 256 else torch.int16)


def _round_weights(network: nn.Module, dtype: torch.dtype) -> None:
    """Round the weights of all convolutions once, as autocast would do at every call."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, ModulatedDeformConv2d)):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)


def check_cuda_graph(device: torch.device) -> None:
    """Raise ValueError if ``device`` cannot record CUDA graphs, that is, if it is not a CUDA device."""
    if device.type != "cuda":
        raise ValueError(f"a CUDA graph needs a CUDA device, this is {device}; leave the option out")


def graphed(function: Callable, *example: Any) -> Callable:
    """``function``, recorded once as a CUDA graph without autograd.

    ``example`` are its positional arguments: tensors on CUDA, in any nesting. The returned function copies its
    arguments, which must have the same shapes, to the memory that the recording reads, and replays the graph. The next
    call overwrites the returned tensors.
    """
    static = pytree.tree_map(torch.clone, example)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    # The setup of libraries at their first use must not be recorded, so the function first runs on another stream.
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(3):
            function(*static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        result = function(*static)

    def replay(*arguments: Any) -> Any:
        pytree.tree_map(lambda to, value: to.copy_(value), static, arguments)
        graph.replay()
        return result

    return replay
