"""What the package's own operators (deformable convolution, flow warp) share where they meet PyTorch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .memory_layout import laid_out_like, layout_of


def check_backend(name: str, allowed: Sequence[str], *, of: str, source: str) -> str:
    """Returns ``name``.

    Args:
        name: the backend that was chosen.
        allowed: names of the operator's backends.
        of: the operator, for the message: "the flow warp".
        source: where the choice comes from, for the message: a config key, an argument, an environment variable.

    Raises:
        ValueError: ``name`` is not in ``allowed``.
    """
    if name not in allowed:
        raise ValueError(f"{source}: unknown backend {name!r} of {of}; choose one of {', '.join(allowed)}")
    return name


# An operator must return tensors and not None, so a backward operator returns the gradients that are needed only.
def needed_gradients(gradients: Sequence[Tensor | None], inputs: Sequence[Tensor], needs: Sequence[bool]):
    """The gradients of the inputs whose entry in ``needs`` is true, each laid out in memory like its input."""
    return [laid_out_like(gradient, t) for gradient, t, need in zip(gradients, inputs, needs) if need]


def empty_gradients(inputs: Sequence[Tensor | None], needs: Sequence[bool]) -> list[Tensor]:
    """Tensors of the shapes and layouts of `needed_gradients`: what ``torch.compile`` sees of a backward operator."""
    return [t.new_empty(t.shape).contiguous(memory_format=layout_of(t)) for t, need in zip(inputs, needs) if need]


def one_per_input(gradients: Sequence[Tensor], needs: Sequence[bool]) -> list[Tensor | None]:
    """`needed_gradients` with None for every input whose gradient is not needed, as autograd expects them."""
    remaining = iter(gradients)
    return [next(remaining) if need else None for need in needs]


def at_least_float32(dtype: torch.dtype, *tensors: Tensor | None) -> list[Tensor | None]:
    """Tensors in the precision of a computation on maps of ``dtype``: float64 for float64, else float32."""
    dtype = torch.promote_types(dtype, torch.float32)
    return [None if t is None else t.to(dtype) for t in tensors]
