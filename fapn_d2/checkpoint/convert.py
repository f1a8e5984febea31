"""Conversion between checkpoints of the papers' official code and ours.

The key maps of the papers are in ``keys``. This file has the common steps: reading, removing prefixes and old buffers
of Detectron2, comparing with a network, and the report.
"""

import functools
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor

from ..files import write_atomically
from ..messages import some
from .keys.augfpn import augfpn_state_to_official, augfpn_state_to_ours
from .keys.fapn import fapn_state_to_official, fapn_state_to_ours
from .keys.maskformer import check_official_maskformer, maskformer_state_to_official, maskformer_state_to_ours
from .keys.panoptic_fcn import panoptic_fcn_state_to_official, panoptic_fcn_state_to_ours
from .keys.sfnet import sfnet_state_to_official, sfnet_state_to_ours
from .weight_files import read_weights

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class KeyMap:
    """The conversions between the state dicts of a paper's official code and ours. Both may raise ValueError."""

    to_ours: Callable[[State], dict[str, Tensor]]
    to_official: Callable[[State], dict[str, Tensor]]
    #: Checks the values of an official state dict; raises ValueError if they cannot be the network's.
    check_official: Callable[[State], object] = lambda state: None


KEY_MAPS: dict[str, KeyMap] = {
    "augfpn": KeyMap(augfpn_state_to_ours, augfpn_state_to_official),
    "fapn": KeyMap(fapn_state_to_ours, fapn_state_to_official),
    "panopticfcn": KeyMap(panoptic_fcn_state_to_ours, panoptic_fcn_state_to_official),
    "maskformer": KeyMap(maskformer_state_to_ours, maskformer_state_to_official, check_official_maskformer),
    "sfnet": KeyMap(sfnet_state_to_ours, sfnet_state_to_official),
    # A head alone: its names do not tell these two networks apart.
    "sfnet-df1": KeyMap(functools.partial(sfnet_state_to_ours, network="DF1"), sfnet_state_to_official),
    "sfnet-df2": KeyMap(functools.partial(sfnet_state_to_ours, network="DF2"), sfnet_state_to_official),
}
DIRECTIONS = ("ours", "official")

# The prefix of DistributedDataParallel.
_WRAPPER = "module."
_BOTTOM_UP = "backbone.bottom_up."
# Detectron2 saved these until 2021. Now it computes them from the config.
_CONSTANTS = re.compile(r"(^|\.)(pixel_mean|pixel_std|anchor_generator\.cell_anchors\.\d+)$")
# Names in PointRend's mask head until 2021. Detectron2 renames them only for its own head class, not for ours.
_OLD_POINTREND = (
    ("roi_heads.mask_coarse_head.coarse_mask_fc", "roi_heads.mask_head.coarse_head.fc"),
    ("roi_heads.mask_coarse_head.", "roi_heads.mask_head.coarse_head."),
    ("roi_heads.mask_point_head.", "roi_heads.mask_head.point_head."),
)


@dataclass(frozen=True)
class Conversion:
    """The outcome of a conversion."""

    weights: dict[str, Tensor]
    renamed: list[tuple[str, str]]  #: (old, new) names, in the order of the old state dict
    rearranged: list[str]  #: new names whose values changed in order or number (classes, background)
    unchanged: list[str]
    dropped: list[str]  #: old names without a counterpart

    def report(self) -> str:
        """One line for each renamed, rearranged or dropped tensor, then the counts."""
        width = max((len(old) for old, _ in self.renamed), default=0)
        moved = set(self.rearranged)
        lines = [f"{old:{width}} -> {new}{' (rearranged)' if new in moved else ''}" for old, new in self.renamed]
        lines += [f"{name} (rearranged)" for name in self.unchanged if name in moved]
        lines += [f"{old:{width}} dropped" for old in self.dropped]
        lines.append(f"{len(self.renamed)} renamed, {len(self.unchanged)} unchanged, {len(self.dropped)} dropped")
        return "\n".join(lines)


def convert_state(state: Mapping[str, Tensor | np.ndarray], *, paper: str, to: str) -> Conversion:
    """Convert a state dict.

    Args:
        state: the tensors or arrays by name. The prefix ``module.`` of a wrapped network is removed.
        paper: a key of KEY_MAPS.
        to: one of DIRECTIONS.

    Raises:
        ValueError: ``paper`` or ``to`` is unknown, or the names are not those of the paper's network.
    """
    if paper not in KEY_MAPS:
        raise ValueError(f"there is no converter for {paper!r}; there is for {', '.join(KEY_MAPS)}")
    if to not in DIRECTIONS:
        raise ValueError(f"a checkpoint can be converted to {' or '.join(DIRECTIONS)}, not to {to!r}")
    kept, sources, dropped = {}, {}, []
    for old, value in state.items():
        name = _plain_name(old, to)
        if _CONSTANTS.search(name):
            dropped.append(old)
        elif name in kept:
            raise ValueError(f"{sources[name]} and {old} would both become {name}")
        else:
            kept[name], sources[name] = torch.as_tensor(value), old
    convert = getattr(KEY_MAPS[paper], f"to_{to}")
    if to == "ours":
        KEY_MAPS[paper].check_official(kept)
    weights = convert(kept)
    origin = _trace(convert, kept)
    pairs = [(sources[old], new) for new, old in origin.items()]
    arrived = set(origin.values())
    return Conversion(
        weights=weights,
        renamed=[(old, new) for old, new in pairs if old != new],
        rearranged=[new for new, old in origin.items() if not _same(weights[new], kept[old])],
        unchanged=[new for old, new in pairs if old == new],
        dropped=dropped + [sources[name] for name in kept if name not in arrived],
    )


def convert_file(source: str, target: str, *, paper: str, to: str, cfg: CfgNode | None = None) -> Conversion:
    """Convert ``source`` and write ``{"model": state dict}`` to ``target`` (.pth).

    Args:
        source: the file to read, in a format of ``weight_files.read_weights``. Only its weights are converted.
        target: the file to write. It must not exist, so that no checkpoint is lost.
        paper: a key of KEY_MAPS.
        to: one of DIRECTIONS.
        cfg: a config whose network our weights must fill exactly, those of a head alone without the bottom-up
            network; None skips this check.

    Raises:
        FileNotFoundError: ``source`` does not exist.
        ValueError: see :func:`convert_state` and ``read_weights``; or the weights do not fit the network; or ``target``
            exists or does not end with .pth. Nothing is written then.
    """
    if os.path.exists(target) or not target.endswith(".pth"):
        raise ValueError(f"{target} {'exists already' if os.path.exists(target) else 'must end with .pth'}")
    conversion = convert_state(read_weights(source)["model"], paper=paper, to=to)
    if cfg is not None:
        ours = conversion.weights if to == "ours" else KEY_MAPS[paper].to_ours(conversion.weights)
        check_fits(ours, cfg)
    folder = os.path.dirname(target)
    if folder:
        os.makedirs(folder, exist_ok=True)
    write_atomically(target, lambda file: torch.save({"model": conversion.weights}, file))
    return conversion


def check_fits(weights: State, cfg: CfgNode) -> None:
    """Compare names and shapes with the network of a config, without allocating its parameters.

    Weights without any of a bottom-up network are those of a pyramid and a head alone; only these are compared then.

    Raises:
        ValueError: weights are missing, unexpected or of another shape. The message names the first of each kind.
    """
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in build_model(cfg).state_dict().items()}
    if not any(name.startswith(_BOTTOM_UP) for name in weights):
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith(_BOTTOM_UP)}
    # Older versions of PyTorch did not have counters of batches, and the network does not need them.
    missing = [n for n in shapes if n not in weights and not n.endswith("num_batches_tracked")]
    unexpected = [name for name in weights if name not in shapes]
    wrong = [
        f"{name} ({tuple(value.shape)}, in the network {shapes[name]})"
        for name, value in weights.items()
        if shapes.get(name, tuple(value.shape)) != tuple(value.shape)
    ]
    named = (("missing", missing), ("not in the network", unexpected), ("of another shape", wrong))
    problems = [f"{len(names)} {what}: {some(names)}" for what, names in named if names]
    if problems:
        raise ValueError(f"the weights do not fit the network of the config; {'; '.join(problems)}")


def _plain_name(name: str, to: str) -> str:
    name = name.removeprefix(_WRAPPER)
    for old, new in _OLD_POINTREND if to == "ours" else ():
        if name.startswith(old):
            return new + name[len(old) :]
    return name


def _trace(convert: Callable[[State], dict[str, Tensor]], state: State) -> dict[str, str]:
    """New name -> old name. It is found by converting tensors of the same shapes that are filled with their numbers.

    New names whose values do not come from an old tensor are left out.
    """
    names = list(state)

    def send(first: int) -> dict[str, int]:
        numbered = {name: torch.tensor(float(i + first)).expand(state[name].shape) for i, name in enumerate(names)}
        # The conversion may add zeros, so the maximum is the number of the source.
        return {new: int(value.max()) for new, value in convert(numbered).items()}

    shifted = send(2)
    return {new: names[number - 1] for new, number in send(1).items() if shifted[new] == number + 1}


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b))
