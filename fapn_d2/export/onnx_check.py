"""An ONNX file beside the network that it was written from, on the same images.

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

#: Largest difference of logits, as a part of the largest logit, that a good file has; float32 rounding is far below.
TOLERANCE = 1e-4
_REPEATS = 3


@dataclass(frozen=True)
class Comparison:
    """What file and network give for the same images."""

    size: tuple[int, int, int]  #: (N,H,W)
    difference: float  #: largest difference of logits over the largest logit; inf where shapes differ
    labels_agree: bool  #: each label of the file has, in the network, the highest logit up to TOLERANCE
    torch_s: float  #: median seconds of the whole network on the CPU, with PyTorch's number of threads
    onnxruntime_s: float  #: the same of the file, with as many threads


def compare(
    model: nn.Module, path: str | Path, sizes: Sequence[tuple[int, int, int]], *, uint8: bool = False
) -> list[Comparison]:
    """Run the file by onnxruntime and the network by PyTorch, both on the CPU.

    The network is run as it is in evaluation, image dicts in and "sem_seg" out, not as it was traced: what the export
    adds or leaves out is compared, too.

    Args:
        model: a Detectron2 model that gives "sem_seg".
        path: a file with the input ``image`` and the output ``logits``, and perhaps ``labels``.
        sizes: (N,H,W) of the images, a comparison each.
        uint8: the type of the file's input; else float32.

    Raises:
        ValueError: onnxruntime does not know what is in the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no base of their own
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
    """What to do where an operator is unknown that can be written otherwise; "" elsewhere."""
    return "; with --grid-sample it is written without DeformConv" if "DeformConv" in str(error) else ""


def _images(n: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """(N,3,H,W) of whole numbers from 0 to 255: smooth regions under noise, so that both large shapes and single
    pixels matter."""
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
    # Two logits may change places within twice the difference that each may have.
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
