"""Weights of timm's networks: MODEL.WEIGHTS "timm://<name>", and plain state dicts in files.

timm downloads and converts the weights. They are stored in the cache of iopath, beside Detectron2's downloads.
"""

import os
from collections.abc import Mapping

import torch
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler, get_cache_dir
from torch import nn

from ..backbones.timm_backbone import TimmBackbone, feature_indices, import_timm
from ..files import write_atomically

PREFIX = "timm://"


class TimmHandler(PathHandler):
    """``timm://mobilenetv2_100`` or, with a named set of weights, ``timm://mobilenetv2_100.ra_in1k`` -> local file."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs) -> str:
        """The cached file, which is written first if it is missing.

        Raises:
            ValueError: timm does not have the network or its weights, or the weights cannot be downloaded.
        """
        name = path.removeprefix(PREFIX)
        file = os.path.join(get_cache_dir(), "timm", f"{name}.pth")
        if force or not os.path.isfile(file):
            _save(_pretrained(name), file)
        return file

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs):
        return open(self._get_local_path(path), mode, buffering)


def _pretrained(name: str) -> dict[str, torch.Tensor]:
    indices = feature_indices(name)
    try:
        network = import_timm().create_model(name, features_only=True, pretrained=True, out_indices=indices)
    except Exception as error:  # each of timm's sources of weights raises other errors
        raise ValueError(
            f"timm cannot provide the weights {PREFIX}{name} ({type(error).__name__}: {error}); give a file as "
            'MODEL.WEIGHTS, or "" to train from scratch'
        ) from error
    return {f"body.{key}": value for key, value in network.state_dict().items()}


def _save(weights: dict[str, torch.Tensor], file: str) -> None:
    os.makedirs(os.path.dirname(file), exist_ok=True)
    # Detectron2's checkpointers then match names by their ends, so the network may be a part of any model.
    content = {"model": weights, "__author__": "timm", "matching_heuristics": True}
    write_atomically(file, lambda stream: torch.save(content, stream))


def named_for(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
    """Rename weights of a plain timm network to the names of the ``TimmBackbone`` in ``model``.

    ``TimmBackbone`` contains a feature network of timm. Feature networks have "_" in names where plain networks have
    ".". All names of a file may have the same prefix ("module.", "backbone.", "encoder.", ...). Names that the feature
    network lacks, such as those of the classifier, do not change.

    Returns:
        The renamed weights; None if ``model`` does not have a ``TimmBackbone``, if the file already has its names, or
        if less than half of the network's weights are in the file.
    """
    prefix = next((f"{name}." for name, m in model.named_modules() if isinstance(m, TimmBackbone)), None)
    if prefix is None or any(name.startswith((f"{prefix}body.", "body.")) for name in weights):
        return None
    body = model.get_submodule(f"{prefix}body")
    ours = {name.replace(".", "_"): f"{prefix}body.{name}" for name in body.state_dict()}
    first = next(iter(ours))
    for name in sorted(weights, key=len):  # the shortest name with this ending has the prefix of the whole network
        flat = name.replace(".", "_")
        if flat != first and not flat.endswith(f"_{first}"):
            continue
        cut = len(name) - len(first)
        renamed = {
            ours.get(other[cut:].replace(".", "_"), other) if other[:cut] == name[:cut] else other: value
            for other, value in weights.items()
        }
        if 2 * sum(other in renamed for other in ours.values()) >= len(ours):
            return renamed
    return None


PathManager.register_handler(TimmHandler(), allow_override=True)
