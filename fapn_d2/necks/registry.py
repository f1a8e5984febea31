"""Registries of the strategies for each part of a pyramid, and what a strategy is told about its level."""

from collections.abc import Callable
from dataclasses import dataclass
from types import NoneType

from torch import nn

from ..messages import nearest
from .parts import Align, Context, Merge


@dataclass(frozen=True)
class Level:
    """One level of a pyramid, as its strategies see it."""

    feature: str  #: name of the bottom-up map, e.g. "res4"
    stage: int  #: number in the names "p<stage>" and "fpn_lateral<stage>", log2 of the stride where that is whole
    stride: int  #: input pixels per pixel of this map
    in_channels: int  #: channels of the bottom-up map
    out_channels: int  #: channels of the pyramid
    norm: str  #: name for Detectron2's ``get_norm``, "" for none
    merge: str = ""  #: name of the MERGE strategy that joins this level to the next coarser one; "" on the coarsest


class StrategyRegistry:
    """Names -> strategies for one part of the pyramid.

    Args:
        key: the configuration key whose values the names are.
        products: the types that a strategy may return.
    """

    def __init__(self, key: str, *products: type):
        self.key = key
        self._products = products
        self._strategies: dict[str, Callable] = {}

    def register(self, strategy: Callable) -> Callable:
        """Decorator: register ``strategy`` under its function name.

        Users write this name in the config, so it should say what the strategy does, not which paper it is from.
        """
        name = strategy.__name__
        if name in self._strategies:
            raise ValueError(f"{self.key} has a strategy named {name!r} already")
        self._strategies[name] = strategy
        return strategy

    def names(self) -> list[str]:
        return sorted(self._strategies)

    def get(self, name: str) -> Callable:
        """Raises ValueError, naming the key and the allowed names, if there is no such strategy."""
        if name not in self._strategies:
            hint = nearest(str(name), self._strategies, limit=1)
            raise ValueError(f"{self.key}: unknown strategy {name!r}{hint}; allowed: {', '.join(self.names())}")
        return self._strategies[name]

    def build(self, name: str, *args):
        """The part that the strategy ``name`` returns.

        Args:
            name: a registered name.
            *args: what the strategies of this registry take: the `Level` and the node MODEL.NECK with the numbers of
                all strategies; nothing for MERGES.

        Raises:
            ValueError: an unknown name, or a strategy that returns something else than the pyramid can use.
        """
        part = self.get(name)(*args)
        if not isinstance(part, self._products):
            allowed = " or ".join("None" if t is NoneType else t.__name__ for t in self._products)
            raise ValueError(
                f"{self.key}: the strategy {name!r} returned a {type(part).__name__}, but the pyramid needs {allowed}; "
                "fapn_d2/necks/parts.py says how to write a strategy"
            )
        return part


# parts.py says what the parts are called with.
CONTEXTS = StrategyRegistry("MODEL.NECK.CONTEXT", Context, nn.Module, NoneType)
LATERALS = StrategyRegistry("MODEL.NECK.LATERAL", nn.Module)
ALIGNS = StrategyRegistry("MODEL.NECK.ALIGN", Align)
FUSES = StrategyRegistry("MODEL.NECK.FUSE", nn.Module)
#: Not built for a level: the order in which the parts of a level are applied.
MERGES = StrategyRegistry("MODEL.NECK.MERGE", Merge)
OUTPUTS = StrategyRegistry("MODEL.NECK.OUTPUT", nn.Module)
