"""Registries of the strategies that fill the holes of a pyramid, and what a strategy is told about its level."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Level:
    """One level of a pyramid, as its strategies see it."""

    feature: str  #: name of the bottom-up map, e.g. "res4"
    stage: int  #: number in the names "p<stage>" and "fpn_lateral<stage>", log2 of the stride where that is whole
    stride: int  #: input pixels a step of this map
    in_channels: int  #: channels of the bottom-up map
    out_channels: int  #: channels of the pyramid
    norm: str  #: name for Detectron2's ``get_norm``, "" for none
    merge: str = ""  #: name of the MERGE strategy that joins this level to the next coarser one; "" on the coarsest


class StrategyRegistry:
    """Names -> strategies of one hole. ``key`` is the configuration key whose values the names are."""

    def __init__(self, key: str):
        self.key = key
        self._strategies: dict[str, Callable] = {}

    def register(self, strategy: Callable) -> Callable:
        """Decorator: register ``strategy`` under its own name, which is for the config: a verb or a thing, no paper."""
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
            near = difflib.get_close_matches(str(name), self._strategies, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"{self.key}: unknown strategy {name!r}{hint}; allowed: {', '.join(self.names())}")
        return self._strategies[name]

    def build(self, name: str, level: Level, neck) -> nn.Module | None:
        """Build the strategy ``name`` for ``level``; ``neck`` is the node MODEL.NECK with the strategies' numbers."""
        return self.get(name)(level, neck)


#: Level, MODEL.NECK -> module: C5 (N,C,h,w) -> (N,D,h,w), or None. Its attribute ``replaces_lateral`` says whether the
#: result is the coarsest lateral or is added to it.
CONTEXTS = StrategyRegistry("MODEL.NECK.CONTEXT")
#: Level, MODEL.NECK -> module: C_i (N,C,H,W) -> (N,D,H,W)
LATERALS = StrategyRegistry("MODEL.NECK.LATERAL")
#: Level, MODEL.NECK -> module: (fine (N,D,H,W), coarse (N,D,h,w)) -> (N,D,H,W). Its attribute ``needs_fine_features``
#: says whether it reads the fine map or just its size.
ALIGNS = StrategyRegistry("MODEL.NECK.ALIGN")
#: Level, MODEL.NECK -> module: (fine, aligned), both (N,D,H,W) -> (N,D,H,W)
FUSES = StrategyRegistry("MODEL.NECK.FUSE")
#: Not built by level: the order in which a level's parts are applied; see strategies/merge.py.
MERGES = StrategyRegistry("MODEL.NECK.MERGE")
#: Level, MODEL.NECK -> module: merged (N,D,H,W) -> P_i (N,D,H,W)
OUTPUTS = StrategyRegistry("MODEL.NECK.OUTPUT")
