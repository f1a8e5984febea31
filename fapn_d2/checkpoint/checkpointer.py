"""Checkpoints that survive a kill, and loading that refuses weights that do not fit.

Detectron2's checkpointer writes in place and reads any pickle. If shapes differ, it only warns, and then scores a
network with random parts. Here a file is read without running code (weight_files.py) and written to a temporary file
first. The names of torchvision's ResNets are known (torchvision_weights.py). There are three ways of loading:
:meth:`Checkpointer.initialize`, :meth:`~Checkpointer.load` and :meth:`~Checkpointer.resume`.
"""

import contextlib
import logging
import os
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlparse

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.utils import comm

from ..files import write_atomically
from . import timm_weights, torchvision_weights
from .fit import Fit
from .weight_files import read_weights


class Checkpointer(DetectionCheckpointer):
    """Saves atomically and loads strictly.

    Args:
        model: the network, which may be wrapped in DistributedDataParallel.
        save_dir: the folder of the checkpoints; "" saves none.
        cfg: the config, whose input is compared with the input that torchvision's weights need. None: no comparison.
        allow_partial: whether to warn, instead of raising, if weights are missing or do not fit.
        save_to_disk: whether this process writes files. None: only rank 0 does.
        checkpointables: other objects to save and resume, each with ``state_dict`` and ``load_state_dict``.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        save_dir: str = "",
        *,
        cfg: CfgNode | None = None,
        allow_partial: bool = False,
        save_to_disk: bool | None = None,
        **checkpointables: Any,
    ):
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.logger = logging.getLogger(__name__)
        self.cfg = cfg
        self.allow_partial = allow_partial

    def save(self, name: str, *, is_last: bool = True, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth``, then point ``last_checkpoint`` to it. A kill at any time leaves both usable.

        Args:
            name: of the file, without ".pth".
            is_last: whether ``last_checkpoint`` shall point to it.
            **kwargs: what else the file holds.

        Raises:
            OSError: the disk is full or cannot be written. Earlier checkpoints and the pointer are unchanged.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        content = {"model": self.model.state_dict()}
        content |= {key: item.state_dict() for key, item in self.checkpointables.items()}
        content |= kwargs
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        write_atomically(path, lambda file: torch.save(content, file))
        if is_last:
            self.tag_last_checkpoint(os.path.basename(path))
            self._remove_old()

    def _remove_old(self) -> None:
        """Keep the newest SOLVER.CHECKPOINT_KEEP files ``model_<iteration>.pth``; files of other names stay."""
        keep = self.cfg.SOLVER.get("CHECKPOINT_KEEP", 0) if self.cfg is not None else 0
        if keep > 0:
            names = [name for name in os.listdir(self.save_dir) if re.fullmatch(r"model_\d{7,}\.pth", name)]
            paths = [os.path.join(self.save_dir, name) for name in names]
            for path in sorted(paths, key=lambda path: (os.stat(path).st_mtime_ns, path))[:-keep]:
                with contextlib.suppress(OSError):
                    os.remove(path)

    def get_checkpoint_file(self) -> str:
        """The file that ``last_checkpoint`` names; "" if it names none, because it is damaged or is a folder."""
        try:
            with open(os.path.join(self.save_dir, "last_checkpoint"), encoding="utf-8") as file:
                return os.path.join(self.save_dir, file.read().strip())
        except (OSError, UnicodeDecodeError):
            return ""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        path = os.path.join(self.save_dir, "last_checkpoint")
        if os.path.isdir(path):
            self.logger.warning("%s is a folder: move it away; until then --resume takes the newest checkpoint", path)
            return
        write_atomically(path, lambda file: file.write(last_filename_basename.encode()))

    def load(self, path: str, checkpointables: Sequence[str] | None = None) -> dict[str, Any]:
        """Load a file that must fill the whole network, as evaluation needs it.

        Args:
            path: the path of a local file, or an address with ``torchvision://``, ``detectron2://`` or ``https://``.
            checkpointables: the names of the other objects to load; None loads all that are in the file.

        Returns:
            The other entries of the file.

        Raises:
            FileNotFoundError, ValueError: see ``weight_files.read_weights``. Without ``allow_partial``, also: weights
                are missing or have another shape than in the network.
        """
        if not path:
            self._complain("no weights are given: set MODEL.WEIGHTS to a checkpoint")
            return {}
        checkpoint = self._read(path)
        self._complain(self._fill(checkpoint).why_not_complete(path))
        return self._load_others(checkpoint, checkpointables)

    def initialize(self, path: str, *, skip: Sequence[str] = ()) -> None:
        """Start training from ImageNet weights of the bottom-up network, or from a trained network.

        Parts outside of the bottom-up network that the file lacks are logged and keep their initialisation.

        Args:
            path: the file or address, as in :meth:`load`; "" starts from random weights.
            skip: the prefixes of names that keep their initialisation (MODEL.WEIGHTS_SKIP).

        Raises:
            FileNotFoundError, ValueError: see ``weight_files.read_weights``. Without ``allow_partial``, also: a weight
                has another shape, no weight fits, or the file lacks weights of the bottom-up network.
        """
        if not path:
            self.logger.info("MODEL.WEIGHTS is empty: training starts from random weights")
            return
        checkpoint = self._read(path)
        fit = self._fill(checkpoint, skip)
        self._complain(fit.why_not_a_start(path))
        self.logger.info(fit.summary(path))

    def resume(self) -> bool:
        """Continue from the last good checkpoint of ``save_dir``. Returns False if the folder has none.

        Unreadable checkpoints are skipped with a warning; the newest readable one is used.

        Raises:
            ValueError: none of the checkpoints can be read, or the network is not the saved one.
        """
        found = self._last_good() if comm.is_main_process() else None
        path, checkpoint, error = found or ("", {}, "")
        path, error = comm.all_gather((path, error))[0]
        if error:
            raise ValueError(error)
        if not path:
            return False
        if not checkpoint:  # rank 0 has read it already
            if not os.path.isfile(path):
                raise ValueError(f"rank {comm.get_rank()} cannot see {path}: OUTPUT_DIR must be on a shared disk")
            checkpoint = read_weights(path)
        self.logger.info("Resuming from %s", path)
        misfit = self._fill(checkpoint).why_not_complete(path)
        if misfit:
            raise ValueError(f"{misfit}. Resume with the config it was trained with, or choose another OUTPUT_DIR")
        self._load_others(checkpoint, None)
        return True

    def _last_good(self) -> tuple[str, dict, str]:
        """(path, content, "") of the checkpoint to resume from, ("", {}, "") if none, ("", {}, why) if all are bad."""
        if not os.path.isdir(self.save_dir):
            return "", {}, ""
        files = [os.path.join(self.save_dir, name) for name in os.listdir(self.save_dir) if name.endswith(".pth")]
        files = [path for path in files if os.path.isfile(path)]
        files.sort(key=os.path.getmtime, reverse=True)
        pointed = self.get_checkpoint_file() if self.has_checkpoint() else ""
        if pointed in files:
            files = [pointed, *(path for path in files if path != pointed)]
        elif files:
            self.logger.warning("last_checkpoint does not name a checkpoint; trying the newest file")
        for path in files:
            try:
                checkpoint = read_weights(path)
            except ValueError as error:
                self.logger.warning("skipping a checkpoint: %s", error)
                continue
            if set(self.checkpointables) <= set(checkpoint):
                return path, checkpoint, ""
            self.logger.warning("skipping %s: it contains weights but not the state of a training run", path)
        why = f"none of the checkpoints in {self.save_dir} can be resumed; start anew in another OUTPUT_DIR"
        return "", {}, why if files else ""

    def _read(self, path: str) -> dict[str, Any]:
        """The content of a file or address. Names of torchvision's and timm's networks become the network's names."""
        self.logger.info("Loading weights from %s", path)
        if path.startswith(torchvision_weights.PREFIX):
            checkpoint = {"model": torchvision_weights.download(path)}
        else:
            query = urlparse(path).query if "://" in path else ""
            local = path.removesuffix(f"?{query}") if query else path
            if "://" in local:
                local = self._fetch(local)
            checkpoint = read_weights(local)
            if query == "matching_heuristics=True":  # Detectron2's way to request matching by the ends of names
                checkpoint["matching_heuristics"] = True
        weights = checkpoint["model"]
        if all(name.startswith("module.") for name in weights):  # saved from within DataParallel
            weights = checkpoint["model"] = {name.removeprefix("module."): value for name, value in weights.items()}
        if all(name.startswith("body.") for name in weights) and self._has("stem.conv3.weight"):
            # The names are those of build_timm_backbone. timm's resnet50s or resnet101s fills our deep-stem ResNet.
            weights = checkpoint["model"] = {name.removeprefix("body."): value for name, value in weights.items()}
            checkpoint.pop("matching_heuristics", None)
        if (renamed := timm_weights.named_for(self.model, weights)) is not None:
            left_out = dict.fromkeys(n.rpartition(".")[0] or n for n in weights if n in renamed)
            weights = checkpoint["model"] = renamed
            if left_out:
                self.logger.info("Parts of %s that a feature network lacks are left out: %s", path, ", ".join(left_out))
            checkpoint.pop("matching_heuristics", None)
        elif torchvision_weights.is_torchvision_resnet(weights):
            self._rename(checkpoint, path)
        elif (renamed := torchvision_weights.shufflenet_for(self.model, weights)) is not None:
            checkpoint["model"] = renamed
            checkpoint.pop("matching_heuristics", None)
            self._compare_input(path, resnet=False)
        if checkpoint.get("__author__") == "torchvision":
            self._compare_input(path)
        return checkpoint

    def _fetch(self, address: str) -> str:
        try:
            return self.path_manager.get_local_path(address)
        except Exception as error:  # each kind of address has errors of its own
            reason = f"{type(error).__name__}: {error}".rstrip(": ")
            raise FileNotFoundError(
                f"weights {address} cannot be downloaded ({reason}). Without a network, fetch the file elsewhere and "
                'set MODEL.WEIGHTS to its path, or MODEL.WEIGHTS "" to train from random weights'
            ) from error

    def _has(self, ending: str) -> bool:
        return any(name.endswith(ending) for name in self.model.state_dict())

    def _rename(self, checkpoint: dict[str, Any], path: str) -> None:
        stem = "stem.conv1.weight"
        prefixes = [name.removesuffix(stem) for name in self.model.state_dict() if name.endswith(stem)]
        if not prefixes:
            raise ValueError(f"{path} contains torchvision's ResNet, but the network has no ResNet of Detectron2 in it")
        weights = torchvision_weights.convert_resnet(checkpoint["model"])
        checkpoint["model"] = {prefixes[0] + name: value for name, value in weights.items()}
        checkpoint["__author__"] = "torchvision"

    def _compare_input(self, path: str, *, resnet: bool = True) -> None:
        if self.cfg is None:
            return
        mismatches = torchvision_weights.input_mismatches(self.cfg, resnet=resnet)
        if mismatches:
            self.logger.warning(
                "%s was trained on an input that differs from this config's; it needs: %s", path, " ".join(mismatches)
            )

    def _fill(self, checkpoint: dict[str, Any], skip: Sequence[str] = ()) -> Fit:
        weights = checkpoint["model"]
        fit = Fit(self.model, weights, skip)
        checkpoint["model"] = {name: value for name, value in weights.items() if not fit.skipped(name)}
        incompatible = self._load_model(checkpoint)
        return fit.judged(incompatible.missing_keys, incompatible.unexpected_keys, incompatible.incorrect_shapes)

    def _load_others(self, checkpoint: dict[str, Any], names: Sequence[str] | None) -> dict[str, Any]:
        for name in self.checkpointables if names is None else names:
            if name in checkpoint:
                self.checkpointables[name].load_state_dict(checkpoint.pop(name))
        return checkpoint

    def _complain(self, problem: str) -> None:
        if problem and not self.allow_partial:
            raise ValueError(f"{problem}. To use only the weights that fit, add --allow-partial")
        if problem:
            self.logger.warning("continuing because of --allow-partial: %s", problem)
