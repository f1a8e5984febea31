"""MODEL.WEIGHTS "timm://<name>": pretrained weights of timm's networks, as ``build_timm_backbone`` names them.

timm itself downloads and converts; what it loads is kept in the cache of iopath, beside Detectron2's own downloads.
"""

import os
import tempfile

import torch
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler, get_cache_dir

from ..backbones.timm_backbone import feature_indices, import_timm

PREFIX = "timm://"


class TimmHandler(PathHandler):
    """``timm://mobilenetv2_100`` or, with a named set of weights, ``timm://mobilenetv2_100.ra_in1k`` -> local file."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs) -> str:
        """The cached file, made first where it is missing.

        Raises:
            ValueError: timm has no such network, or no weights for it, or they cannot be downloaded.
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
    except Exception as error:  # each of timm's sources of weights fails in its own way
        raise ValueError(
            f"timm cannot provide the weights {PREFIX}{name} ({type(error).__name__}: {error}); give a file as "
            'MODEL.WEIGHTS, or "" to train from scratch'
        ) from error
    return {f"body.{key}": value for key, value in network.state_dict().items()}


def _save(weights: dict[str, torch.Tensor], file: str) -> None:
    """Write under another name first: other processes may be reading or writing the same file."""
    os.makedirs(os.path.dirname(file), exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(file))
    with os.fdopen(handle, "wb") as stream:
        # Detectron2's checkpointers then match names by their ends, whatever the network is part of.
        torch.save({"model": weights, "__author__": "timm", "matching_heuristics": True}, stream)
    os.replace(temporary, file)


PathManager.register_handler(TimmHandler(), allow_override=True)
