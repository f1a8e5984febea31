"""Checkpoints that survive a kill, and loading that refuses what does not fit.

Detectron2's checkpointer writes in place, reads pickles without restraint, and only warns when shapes differ, after
which it scores a network that is part random. The differences here are four: reading (weight_files.py), the names of
torchvision's ResNets (torchvision_weights.py), writing to a temporary file first, and three ways of loading that say
what a file must bring: :meth:`Checkpointer.initialize`, :meth:`~Checkpointer.load` and :meth:`~Checkpointer.resume`.
"""

import logging
import os
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
        model: the network, also wrapped in DistributedDataParallel.
        save_dir: where checkpoints go; "" to save none.
        cfg: to compare the input it describes with what torchvision's weights need; None: no such comparison.
        allow_partial: warn, instead of raising, where weights are missing or do not fit.
        checkpointables: what else is saved and resumed, each with ``state_dict`` and ``load_state_dict``.
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

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth``, then point ``last_checkpoint`` to it. A kill at any time leaves both usable.

        Raises:
            OSError: the disk is full, or cannot be written; earlier checkpoints and the pointer are as they were.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        content = {"model": self.model.state_dict()}
        content |= {key: item.state_dict() for key, item in self.checkpointables.items()}
        content |= kwargs
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        write_atomically(path, lambda file: torch.save(content, file))
        self.tag_last_checkpoint(os.path.basename(path))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        path = os.path.join(self.save_dir, "last_checkpoint")
        write_atomically(path, lambda file: file.write(last_filename_basename.encode()))

    def load(self, path: str, checkpointables: Sequence[str] | None = None) -> dict[str, Any]:
        """Load a file that must fill the whole network, as evaluation needs it.

        Args:
            path: local file, or an address with ``torchvision://``, ``detectron2://`` or ``https://``.
            checkpointables: names of what else to load; None for all that the file has.

        Returns:
            What is left in the file.

        Raises:
            FileNotFoundError, ValueError: see ``weight_files.read_weights``; or weights are missing or have another
                shape than in the network, unless ``allow_partial``.
        """
        if not path:
            self._complain("no weights are given: set MODEL.WEIGHTS to a checkpoint")
            return {}
        checkpoint = self._read(path)
        self._complain(self._fill(checkpoint).why_not_complete(path))
        return self._load_others(checkpoint, checkpointables)

    def initialize(self, path: str, *, skip: Sequence[str] = ()) -> None:
        """Start training from a file: ImageNet weights of the bottom-up network, or a trained network to tune.

        Args:
            path: as in :meth:`load`; "" starts from random weights.
            skip: prefixes of names that keep their initialisation (MODEL.WEIGHTS_SKIP).

        Raises:
            FileNotFoundError, ValueError: as :meth:`load`, where a weight has another shape, none fits, or the
                bottom-up network is filled in part only. What a trained network lacks is logged, not refused.
        """
        if not path:
            self.logger.info("MODEL.WEIGHTS is empty: training starts from random weights")
            return
        checkpoint = self._read(path)
        fit = self._fill(checkpoint, skip)
        self._complain(fit.why_not_a_start(path))
        self.logger.info(fit.summary(path))

    def resume(self) -> bool:
        """Continue from the last good checkpoint of ``save_dir``; False if there is none.

        A checkpoint that cannot be read is passed over, with a warning, for the newest one that can.

        Raises:
            ValueError: none of the checkpoints there can be read, or the network is not the one that was saved.
        """
        found = self._last_good() if comm.is_main_process() else None
        path, checkpoint, error = found or ("", {}, "")
        path, error = comm.all_gather((path, error))[0]
        if error:
            raise ValueError(error)
        if not path:
            return False
        if not checkpoint:  # rank 0 has it already
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
                self.logger.warning("passing over a checkpoint: %s", error)
                continue
            if set(self.checkpointables) <= set(checkpoint):
                return path, checkpoint, ""
            self.logger.warning("passing over %s: it holds weights but not the state of a training run", path)
        why = f"none of the checkpoints in {self.save_dir} can be resumed; start anew in another OUTPUT_DIR"
        return "", {}, why if files else ""

    def _read(self, path: str) -> dict[str, Any]:
        """Content of a file or address; names of torchvision's ResNets become Detectron2's."""
        self.logger.info("Loading weights from %s", path)
        if path.startswith(torchvision_weights.PREFIX):
            checkpoint = {"model": torchvision_weights.download(path)}
        else:
            query = urlparse(path).query if "://" in path else ""
            local = path.removesuffix(f"?{query}") if query else path
            if "://" in local:
                local = self.path_manager.get_local_path(local)
            checkpoint = read_weights(local)
            if query == "matching_heuristics=True":  # Detectron2's way to ask for matching by the end of names
                checkpoint["matching_heuristics"] = True
        weights = checkpoint["model"]
        if all(name.startswith("module.") for name in weights):  # saved from within DataParallel
            weights = checkpoint["model"] = {name.removeprefix("module."): value for name, value in weights.items()}
        if all(name.startswith("body.") for name in weights) and self._has("stem.conv3.weight"):
            # timm's resnet50s or resnet101s, named for build_timm_backbone, is to fill our ResNet with a deep stem.
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

    def _has(self, ending: str) -> bool:
        return any(name.endswith(ending) for name in self.model.state_dict())

    def _rename(self, checkpoint: dict[str, Any], path: str) -> None:
        stem = "stem.conv1.weight"
        prefixes = [name.removesuffix(stem) for name in self.model.state_dict() if name.endswith(stem)]
        if not prefixes:
            raise ValueError(f"{path} holds torchvision's ResNet, but the network has no ResNet of Detectron2 in it")
        weights = torchvision_weights.convert_resnet(checkpoint["model"])
        checkpoint["model"] = {prefixes[0] + name: value for name, value in weights.items()}
        checkpoint["__author__"] = "torchvision"

    def _compare_input(self, path: str, *, resnet: bool = True) -> None:
        if self.cfg is None:
            return
        mismatches = torchvision_weights.input_mismatches(self.cfg, resnet=resnet)
        if mismatches:
            self.logger.warning(
                "%s was trained on another input than this config gives; it needs: %s", path, " ".join(mismatches)
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
            raise ValueError(f"{problem}. To go on with what fits, add --allow-partial")
        if problem:
            self.logger.warning("going on, as --allow-partial asks: %s", problem)
