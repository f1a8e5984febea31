"""Comparisons of single operators at the sizes of a pyramid's levels."""

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

from ..layers.deform_conv.module import modulated_deform_conv2d
from ..layers.flow_warp.operator import by_grid_sample
from ..layers.flow_warp.warp import flow_warp
from ..layers.resize import resize_to
from .measure import Comparison
from .options import DTYPES, Options, with_backend

TAPS = 9


def operator_comparisons(options: Options) -> Iterator[Comparison]:
    """Two operators, each compared with another implementation and with a plain operation as the lower limit.

    The modulated deformable 3x3 convolution is compared with torchvision's and with a plain 3x3 convolution; the flow
    warp of the next coarser map plus the finer map with ``F.grid_sample`` and with bilinear upsampling.
    """
    for operator in options.operators:
        settings, alternatives = OPERATORS[operator]
        for setting, tensors in settings(options):
            for which in options.passes:
                complete = {"operator": operator, **setting, "pass": which}
                calls = {
                    name: _call(function, backend, tensors, options, complete)
                    for name, (function, backend) in alternatives.items()
                }
                yield Comparison("ops", complete, next(iter(alternatives)), calls, items=len(tensors["x"]))


def operator_settings(options: Options) -> Iterator[tuple[dict[str, object], dict[str, torch.Tensor]]]:
    """Levels of a pyramid over the images, and the tensors of the deformable convolution there.

    Input, offsets and mask have the precision of the run, as in a network under autocast; weights are float32
    parameters.
    """
    return _settings(options, _tensors)


def warp_settings(options: Options) -> Iterator[tuple[dict[str, object], dict[str, torch.Tensor]]]:
    """The same for the flow warp, to the size of each level from half of it."""
    return _settings(options, _warp_tensors)


def _settings(options: Options, tensors: Callable) -> Iterator[tuple[dict[str, object], dict[str, torch.Tensor]]]:
    for height, width in options.images:
        for stride in options.strides:
            # Detectron2 pads images to a multiple of 32.
            size = tuple(math.ceil(s / 32) * 32 // stride for s in (height, width))
            for batch in options.batches:
                for dtype in options.dtypes:
                    setting = {
                        "image": f"{height}x{width}",
                        "stride": stride,
                        "map": f"{batch}x{options.channels}x{size[0]}x{size[1]}",
                        "dtype": dtype,
                    }
                    yield setting, tensors(options, size, batch, dtype)


def _tensors(options: Options, size: tuple[int, int], batch: int, dtype: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    c, g = options.channels, options.groups

    def normal(*shape):
        return torch.randn(*shape, generator=generator).to(options.device)

    maps = {
        "x": normal(batch, c, *size),
        "offset": 2 * normal(batch, 2 * g * TAPS, *size),  # pixels: most samples are within 4 of their position
        "mask": normal(batch, g * TAPS, *size).sigmoid(),
    }
    maps = {k: t.to(DTYPES[dtype]).contiguous(memory_format=options.memory_format) for k, t in maps.items()}
    weight = normal(c, c, 3, 3) / math.sqrt(c * TAPS)
    return maps | {"weight": weight, "bias": normal(c), "grad": torch.ones_like(maps["x"])}


def _warp_tensors(options: Options, size: tuple[int, int], batch: int, dtype: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(channels, height, width):
        values = torch.randn(batch, channels, height, width, generator=generator)
        return values.to(options.device, DTYPES[dtype]).contiguous(memory_format=options.memory_format)

    maps = {
        "x": normal(options.channels, *(max(1, s // 2) for s in size)),
        "flow": 4 * normal(2, *size),  # pixels of the finer map, times two
        "added": normal(options.channels, *size),
    }
    return maps | {"grad": torch.ones_like(maps["added"])}


def _bilinear(x, flow, added):
    return added + resize_to(x, flow.shape[-2:], "bilinear_corners")


def _grid_sample(x, flow, added):
    return by_grid_sample(x, flow, added, 0.5, True)


def _warp(x, flow, added):
    return flow_warp(x, flow, added=added)


def _plain(x, offset, mask, weight, bias):
    return F.conv2d(x, weight, bias, padding=1)


def _deformable(x, offset, mask, weight, bias):
    return modulated_deform_conv2d(x, offset, mask, weight, bias)


#: Operator -> its settings, and its alternatives as name -> (function, backend of the deformable convolution). The
#: lower limit comes first.
OPERATORS = {
    "deform": (
        operator_settings,
        {
            "conv3x3": (_plain, "auto"),
            "fapn_d2": (_deformable, "auto"),
            "torchvision": (_deformable, "torchvision"),
        },
    ),
    "flow": (
        warp_settings,
        {"bilinear": (_bilinear, "auto"), "fapn_d2": (_warp, "auto"), "grid_sample": (_grid_sample, "auto")},
    ),
}


def _call(function: Callable, backend: str, tensors: dict, options: Options, setting: dict) -> Callable[[], object]:
    backward = setting["pass"] == "forward+backward"
    inputs = {k: t.detach().requires_grad_(backward) for k, t in tensors.items() if k != "grad"}
    run = options.prepared(function)

    def forward():
        with options.autocast(setting["dtype"]), torch.set_grad_enabled(backward):
            return run(**inputs)

    def forward_backward():
        for t in inputs.values():
            t.grad = None
        forward().backward(tensors["grad"])

    return with_backend(backend, forward_backward if backward else options.recorded(forward, backend))
