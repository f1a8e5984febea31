"""Comparison of an ONNX file with the network that it was written from, on the same images.

Legend: N images, K classes, H x W size of the images.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Largest accepted difference of logits, relative to the largest logit. Rounding in float32 is far below it.
TOLERANCE = 1e-4
_REPEATS = 3


@dataclass(frozen=True)
class Comparison:
    """Results of file and network for the same images."""

    size: tuple[int, int, int]  #: (N,H,W)
    difference: float  #: largest difference of logits over the largest logit; inf where shapes differ
    labels_agree: bool  #: whether each label of the file has the highest logit of the network, up to TOLERANCE
    torch_s: float  #: median seconds of the network on the CPU, with PyTorch's number of threads
    onnxruntime_s: float  #: median seconds of the file, with the same number of threads


def compare(
    model: nn.Module, path: str | Path, sizes: Sequence[tuple[int, int, int]], *, uint8: bool = False
) -> list[Comparison]:
    """Run the file by onnxruntime and the network by PyTorch, both on the CPU.

    The network runs as in evaluation (image dicts in, "sem_seg" out) and not as it was traced. So the comparison also
    covers what the export adds or leaves out.

    Args:
        model: a Detectron2 model that gives "sem_seg".
        path: a file with the input ``image`` and the output ``logits``, and perhaps ``labels``.
        sizes: (N,H,W) of the images of each comparison.
        uint8: whether the file's input is uint8 instead of float32.

    Raises:
        ValueError: onnxruntime cannot load the file, for example because it lacks an operator.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the exceptions of onnxruntime have no common base class
        raise ValueError(
            f"onnxruntime {onnxruntime.__version__} cannot load {path}, which is kept for inspection only: {error}"
            f"{hint_about(error)}"
        ) from error
    generator = torch.Generator().manual_seed(0)
    found = []
    model.eval()
    for n, height, width in sizes:
        image = _images(n, height, width, generator)
        batch = [{"image": x, "height": height, "width": width} for x in image]
        feed = {"image": image.numpy().astype(np.uint8 if uint8 else np.float32)}
        with torch.no_grad():
            expected, torch_s = _timed(lambda batch=batch: torch.stack([x["sem_seg"] for x in model(batch)]))
        outputs, onnxruntime_s = _timed(lambda feed=feed: session.run(None, feed))
        got = dict(zip((o.name for o in session.get_outputs()), map(torch.from_numpy, outputs)))
        scale = expected.abs().max()
        found.append(
            Comparison(
                size=(n, height, width),
                difference=_difference(got["logits"], expected, scale),
                labels_agree="labels" not in got or _labels_agree(got["labels"], expected, scale),
                torch_s=torch_s,
                onnxruntime_s=onnxruntime_s,
            )
        )
    return found


def hint_about(error: Exception) -> str:
    """The option to use if the runtime lacks an operator that can be written in another way; else ""."""
    return "; with --grid-sample it is written without DeformConv" if "DeformConv" in str(error) else ""


def _images(n: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """(N,3,H,W) of whole numbers from 0 to 255: smooth regions under noise, so that both large shapes and single
    pixels affect the result."""
    coarse = torch.rand(n, 3, 6, 8, generator=generator) * 200
    smooth = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
    return (smooth + 55 * torch.rand(n, 3, height, width, generator=generator)).clamp(0, 255).round()


def _difference(got: Tensor, expected: Tensor, scale: Tensor) -> float:
    if got.shape != expected.shape:
        return float("inf")
    return float((got - expected).abs().max() / scale)


def _labels_agree(labels: Tensor, expected: Tensor, scale: Tensor) -> bool:
    if labels.shape != (len(expected), *expected.shape[-2:]):
        return False
    # Each logit may differ by TOLERANCE, so two logits may change their order if they are within twice that.
    of_label = expected.gather(1, labels[:, None])[:, 0]
    return bool((of_label >= expected.amax(dim=1) - 2 * TOLERANCE * scale).all())


def _timed(function: Callable) -> tuple:
    """(result, median seconds) of several calls after a first one."""
    result = function()
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return result, statistics.median(seconds)
