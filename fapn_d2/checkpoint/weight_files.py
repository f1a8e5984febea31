"""Reading weight files without running code in them.

A pickle can run any code while it is read. So PyTorch's ``weights_only`` reader reads ``.pth`` files, and an unpickler
that knows only arrays and containers reads the ``.pkl`` files of Detectron2's model zoo. A refused file is not read in
any other way. PyTorch's reader is safe from version 2.10 on (earlier: CVE-2025-32434 and CVE-2026-24747).
"""

import os
import pickle
import zipfile
import zlib
from typing import Any

import numpy as np
import torch

from ..pickles import DTYPES, NUMPY, first_line, read_pickle, refusal


def read_weights(path: str) -> dict[str, Any]:
    """Read a ``.pth``, ``.pkl`` or ``.safetensors`` file.

    Returns:
        A dict with "model" (name -> tensor or array) and the other entries of the file: "trainer" and "iteration" of a
        training run, "__author__" and "matching_heuristics" of Detectron2's model zoo.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is truncated or damaged, contains no weights, or contains objects that are not data.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"weight file {path} does not exist")
    if path.endswith(".safetensors"):
        content = _read_safetensors(path)
    elif path.endswith(".pkl"):
        content = _read_pickle(path)
    else:
        content = _read_torch(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} contains a {type(content).__name__}, not a dict of weights")
    for key in ("model", "state_dict"):  # the names of Detectron2 and of PyTorch's ImageNet example
        if isinstance(content.get(key), dict):
            return {**content, "model": content[key]}
    if not content or not all(isinstance(value, (torch.Tensor, np.ndarray)) for value in content.values()):
        raise ValueError(f"{path} contains no weights: neither 'model' nor tensors, but {', '.join(map(str, content))}")
    return {"model": content}


def _read_torch(path: str) -> Any:
    allowed = [(value, name) for name, value in NUMPY.items()] + list(DTYPES)
    _verify_checksums(path)
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if zipfile.is_zipfile(path):  # the archive is intact, so its content was refused
            foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            raise ValueError(refusal(path, ", ".join(foreign))) from error
        raise ValueError(f"{path} is damaged or not a PyTorch file: {first_line(error)}") from error
    except (EOFError, RuntimeError, OSError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ValueError(f"{path} is truncated or damaged: {first_line(error)}") from error


def _verify_checksums(path: str) -> None:
    """Compare each part of a zip file with its CRC-32, which ``torch.save`` writes. ``torch.load`` does not look at it.

    Raises:
        ValueError: a part differs, or the zip's table of contents is damaged.
    """
    if not zipfile.is_zipfile(path):  # PyTorch's format before 1.6, which has no checksums
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path} is truncated or damaged: {first_line(error)}") from error
    if damaged is not None:
        raise ValueError(f"{path} is damaged: the checksum of {damaged} in it is wrong")


def _read_pickle(path: str) -> dict[str, Any]:
    content = read_pickle(path)
    if isinstance(content, dict) and not ("model" in content and "__author__" in content):
        # Files of Caffe2 and Detectron have other names and do not name their author. Detection models keep weights
        # under "blobs".
        blobs = content.get("blobs", content)
        blobs = {name: value for name, value in blobs.items() if not name.endswith("_momentum")}
        return {"model": blobs, "__author__": "Caffe2", "matching_heuristics": True}
    return content


def _read_safetensors(path: str) -> dict[str, torch.Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ValueError(f"to read {path}, install the package safetensors") from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or damaged: {error}") from error
