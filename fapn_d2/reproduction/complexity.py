"""The cost of a network: operations counted while it runs, also on the meta device, by the conventions of the papers.

Papers mean different things by "GFLOPs". A convention says how much an operation of each kind counts. The units are:

===============  =====================================================================================
kind             one unit is
===============  =====================================================================================
``conv``         a multiply-add of a convolution
``deform_conv``  a multiply-add of a deformable convolution (its sampling is not counted)
``linear``       a multiply-add of a linear layer
``matmul``       a multiply-add of a product of batches of matrices, as in attention
``bias``         an addition of a convolution's bias
``norm``         an element that is normalised
``activation``   an element that goes through a ReLU, sigmoid, ...
``pool``         an element that is read by a pooling layer
===============  =====================================================================================
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ..layers.feature_align import FeatureAlign
from ..layers.feature_selection import FeatureSelection


@dataclass(frozen=True)
class Convention:
    """The weight of a unit of each kind; kinds that are not named are not counted."""

    factors: Mapping[str, float]
    #: Operations that our code computes in another way count as in the papers' formulas: see ``_PRINTED``.
    as_printed: bool = False


CONVENTIONS: dict[str, Convention] = {
    # Multiply-adds of everything that multiplies, as it runs here; fvcore's "flops".
    "macs": Convention({"conv": 1, "deform_conv": 1, "linear": 1, "matmul": 1}),
    # The same, a multiply-add being two operations: Table I's and most vendors' FLOPs.
    "2macs": Convention({"conv": 2, "deform_conv": 2, "linear": 2, "matmul": 2}),
    # FaPN, Table I: multiply-adds of ordinary convolutions, as a counter hooked on nn.Conv2d sees them. The deformable
    # convolution itself is not counted, the convolutions that predict its offsets are.
    "conv_macs": Convention({"conv": 1}, as_printed=True),
    # SFNet, Tables 3, 4, 7, 8 and 9: twice the multiply-adds of layers, and 0.1 to 0.2 % of terms by element. Products
    # outside of layers, as in attention, are not seen.
    "sfnet": Convention({"conv": 2, "linear": 2, "bias": 1, "norm": 2, "activation": 1, "pool": 1}, as_printed=True),
}


@dataclass(frozen=True)
class Complexity:
    """Cost of one forward pass."""

    total: float  #: operations in the convention asked for
    by_module: dict[str, float]  #: the same by qualified name; a module's number contains its children's
    operations: dict[str, int]  #: units by kind, before the convention is applied
    parameters: int  #: number that the pass reads: in evaluation all but those of auxiliary branches for training
    #: Elements of the outputs of all convolutions: the activations of Panoptic FPN's Table 1a and Figure 4. Norms,
    #: ReLU, pooling, resampling and sums give none.
    activations: int = 0
    activations_by_module: Mapping[str, int] = field(default_factory=dict)  #: as ``by_module``


def count_flops(model: nn.Module, *inputs, convention: str = "macs") -> Complexity:
    """Run ``model(*inputs)`` once without gradients and count its operations.

    The mode (training or not) and the device are those of the model. On the meta device nothing is computed, so
    that any network is counted quickly.

    Raises:
        ValueError: ``convention`` is not a name in CONVENTIONS.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"unknown convention {convention!r} of counting; allowed: {', '.join(CONVENTIONS)}")
    rule = CONVENTIONS[convention]
    counter = _Counter()
    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(counter.enter(name)))
        printed = _printed(module) if rule.as_printed else None
        hooks.append(module.register_forward_hook(counter.leave(name, printed)))
    try:
        with torch.no_grad(), counter:
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    totals = {
        name: sum(rule.factors.get(kind, 0) * units for kind, units in units_by_kind.items())
        for name, units_by_kind in counter.units.items()
    }
    activations = {name: units_by_kind[_ACTIVATIONS] for name, units_by_kind in counter.units.items()}
    return Complexity(
        total=totals.pop("", 0.0),
        by_module=totals,
        operations={k: n for k, n in counter.units.get("", {}).items() if k != _ACTIVATIONS},
        parameters=sum(p.numel() for p in counter.parameters.values()),
        activations=activations.pop("", 0),
        activations_by_module=activations,
    )


class _Counter(TorchDispatchMode):
    """Counts every operation for all modules whose ``forward`` is running."""

    def __init__(self):
        super().__init__()
        self.units: dict[str, Counter] = {}
        self.parameters: dict[int, nn.Parameter] = {}
        self._running: list[str] = []

    def enter(self, name: str) -> Callable:
        def hook(module, args):
            self._running.append(name)

        return hook

    def leave(self, name: str, printed: Callable | None) -> Callable:
        def hook(module, args, output):
            if printed is not None:
                self._add(printed(module, *args))
            self._running.remove(name)

        return hook

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        read = [arg for arg in tree_leaves((args, kwargs)) if isinstance(arg, nn.Parameter)]
        self.parameters.update((id(p), p) for p in read)
        self._add(_units(func, args, kwargs or {}, output))
        return output

    def _add(self, units: dict[str, int]) -> None:
        for name in {"", *self._running}:
            self.units.setdefault(name, Counter()).update(units)


#: Elements of the outputs of convolutions, kept beside the operations.
_ACTIVATIONS = "activations"
_NONLINEAR = ("relu", "relu_", "leaky_relu", "sigmoid", "sigmoid_", "gelu", "silu", "hardtanh", "hardtanh_")


def _units(func, args, kwargs, output) -> dict[str, int]:
    name = func.overloadpacket.__name__
    if "deform_conv2d" in name:
        weight = next(a for a in args[1:] if isinstance(a, Tensor) and a.dim() == 4 and a.shape[0] == output.shape[1])
        return {"deform_conv": output.numel() * weight[0].numel(), _ACTIVATIONS: output.numel()}
    if name == "convolution":
        macs = flop_registry[func.overloadpacket](*args, **kwargs, out_val=output) // 2
        bias = output.numel() if args[2] is not None else 0
        return {"conv": macs, "bias": bias, _ACTIVATIONS: output.numel()}
    if func.overloadpacket in flop_registry:
        kind = "linear" if name in ("mm", "addmm") else "matmul"
        return {kind: flop_registry[func.overloadpacket](*args, **kwargs, out_val=output) // 2}
    if name.endswith(("batch_norm", "group_norm", "layer_norm")) or "batch_norm_legit" in name:
        return {"norm": args[0].numel()}
    if name in _NONLINEAR:
        return {"activation": output.numel()}
    if "pool2d" in name or (name == "mean" and args[0].dim() == 4):  # average pooling to one cell is a mean
        return {"pool": args[0].numel()}
    return {}


def _printed_feature_align(module: FeatureAlign, fine: Tensor, coarse: Tensor) -> dict[str, int]:
    """In Equation 1 the 1x1 convolution of the upsampled map is at the fine size, in our code at the coarse size."""
    channels = fine.shape[1]
    return {"conv": (fine.numel() - coarse.numel()) * channels}


def _printed_feature_selection(module: FeatureSelection, x: Tensor) -> dict[str, int]:
    """Equation 4 has a 1x1 convolution, our code a matrix product."""
    macs = x.numel() * module.selection.out_channels
    return {"conv": macs, "matmul": -macs}


#: Modules that compute their paper's formula by other operations -> operations that the formula has in addition.
_PRINTED: dict[type, Callable[..., dict[str, int]]] = {
    FeatureAlign: _printed_feature_align,
    FeatureSelection: _printed_feature_selection,
}


def _printed(module: nn.Module) -> Callable[..., dict[str, int]] | None:
    return next((_PRINTED[kind] for kind in type(module).__mro__ if kind in _PRINTED), None)
