"""One detector from two networks that share their backbone: the last step of 4-step alternating training."""

from pathlib import Path

import torch

from ..files import write_atomically
from ..messages import some
from .weight_files import read_weights

#: The part that a region proposal network and Fast R-CNN share: bottom-up network and pyramid.
SHARED = "backbone"
_RPN, _DETECTOR = "proposal_generator", "roi_heads"


def join_checkpoints(rpn: str | Path, detector: str | Path, target: str | Path) -> None:
    """Write the checkpoint of a Faster R-CNN that has the heads of two networks (Ren et al., NIPS 2015, Section 3.2).

    Args:
        rpn: checkpoint of a region proposal network.
        detector: checkpoint of a Fast R-CNN with the same backbone, to the bit.
        target: the file to write.

    Raises:
        FileNotFoundError: a checkpoint does not exist.
        ValueError: one lacks its head, or the backbones differ.
    """
    proposing, detecting = _weights(rpn), _weights(detector)
    for weights, path, part in ((proposing, rpn, _RPN), (detecting, detector, _DETECTOR)):
        if not any(name.startswith(f"{part}.") for name in weights):
            raise ValueError(f"{path} has no {part}: its names are {some(weights)}")
    shared = [{name for name in weights if name.startswith(f"{SHARED}.")} for weights in (proposing, detecting)]
    differ = sorted(shared[0] ^ shared[1])
    differ += [name for name in sorted(shared[0] & shared[1]) if not torch.equal(proposing[name], detecting[name])]
    if differ:
        raise ValueError(
            f"the backbones of {rpn} and {detector} differ in {len(differ)} tensors ({some(differ)}), so that one "
            "detector cannot have both heads; train both with MODEL.FREEZE_PARTS \"['backbone']\" from the same weights"
        )
    joined = {**{name: v for name, v in proposing.items() if name.startswith(f"{_RPN}.")}, **detecting}
    write_atomically(str(target), lambda file: torch.save({"model": joined}, file))


def _weights(path: str | Path) -> dict[str, torch.Tensor]:
    return {name: torch.as_tensor(value) for name, value in read_weights(str(path))["model"].items()}
