"""The Triton kernels of the deformable convolution with other launch parameters than the chosen ones."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from ..layers.deform_conv import cuda as deform_conv_cuda
from ..layers.deform_conv.cuda_launch import Launch, forward_launch, position_launch, weight_launch
from .measure import Comparison
from .operators import operator_settings
from .options import DTYPES, Options

CHOSEN = "chosen: "
KERNELS = {
    "forward": (forward_launch, (False, False, False, False)),
    "gradients of x, offset, mask": (position_launch, (True, True, True, False)),
    "gradient of weight": (weight_launch, (False, False, False, True)),
}


def sweep_comparisons(options: Options) -> Iterator[Comparison]:
    """Each kernel with the chosen launch parameters and with similar ones, at the sizes of ``ops``.

    Launches that need more shared memory or registers than the device has are skipped and named. In float32 the chosen
    launch also runs with products made of three TF32 products, which are nearly as exact and run on tensor cores.

    Raises:
        ValueError: without CUDA.
    """
    if options.device.type != "cuda":
        raise ValueError(f"the suite sweep times CUDA kernels, --device is {options.device}")
    from triton.runtime.errors import OutOfResources, PTXASError

    for setting, tensors in operator_settings(options):
        for kernel, (choose, needs) in KERNELS.items():
            call = _caller(tensors, needs, DTYPES[str(setting["dtype"])])
            work = deform_conv_cuda.work(tensors["x"], tensors["offset"], tensors["weight"])
            chosen = choose(work)
            launches = {f"{CHOSEN}{chosen}": chosen, **{str(launch): launch for launch in neighbours(chosen)}}
            calls = {name: call(launch) for name, launch in launches.items()}
            if not work.half:
                calls["chosen, three TF32 products"] = call(chosen, precision="tf32x3")
            yield Comparison(
                "sweep",
                {**setting, "kernel": kernel},
                f"{CHOSEN}{chosen}",
                calls,
                items=len(tensors["x"]),
                expected=(torch.OutOfMemoryError, OutOfResources, PTXASError),
            )


def neighbours(launch: Launch) -> list[Launch]:
    """Launches that differ from this one in one respect, by a factor of two (stages: by one)."""
    found = []
    for field, least, most in (
        ("tile_h", 4, 16),
        ("tile_w", 4, 16),
        ("outputs", 32, 256),
        ("slots", 1, 8),
        ("warps", 4, 8),
    ):
        value = getattr(launch, field)
        found += [replace(launch, **{field: v}) for v in (value // 2, 2 * value) if least <= v <= most]
    found += [replace(launch, stages=launch.stages + d) for d in (-1, 1) if launch.stages + d >= 1]
    if launch.channels >= 32:
        found.append(replace(launch, slots=2 * launch.slots, channels=launch.channels // 2))
    return found


def _caller(tensors: dict[str, torch.Tensor], needs: tuple[bool, ...], dtype: torch.dtype) -> Callable:
    x, offset, mask, grad = (tensors[name] for name in ("x", "offset", "mask", "grad"))
    weight, bias = tensors["weight"].to(dtype), tensors["bias"].to(dtype)
    geometry = ((1, 1),) * 3

    def at(launch: Launch, precision: str = "") -> Callable[[], object]:
        if any(needs):
            return lambda: deform_conv_cuda.backward(
                grad, x, offset, mask, weight, *geometry, needs, launch=launch, precision=precision
            )
        return lambda: deform_conv_cuda.forward(
            x, offset, mask, weight, bias, *geometry, launch=launch, precision=precision
        )

    return at
