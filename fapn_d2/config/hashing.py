"""Hashes of a config: a short one that is equal for runs with the same result, and one of all keys."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode

from .loading import default_config, leaves

#: Keys that do not change the result of a run.
_PLACE = (
    "OUTPUT_DIR",
    "SEED",
    "VERSION",
    "VIS_PERIOD",
    "MODEL.DEVICE",
    "MODEL.NECK.DEFORM.BACKEND",
    "DISTRIBUTED",
    "DATALOADER.NUM_WORKERS",
    "DATALOADER.CLASS_UNIFORM.CACHE",
    "SOLVER.CHECKPOINT_PERIOD",
    "SOLVER.CHECKPOINT_KEEP",
    "TEST.EVAL_PERIOD",
    "TEST.BACKEND",
    "TEST.KEEP_PREDICTIONS",
    "TEST.SEM_SEG.BATCH",
    "TEST.SEM_SEG.ACCUMULATE",
)


#: Keys (and sections) that only scoring reads.
_SCORING = ("TEST", "DATASETS.TEST", "DATASETS.PROPOSAL_FILES_TEST", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST")


def config_hash(cfg: CfgNode, *, without: Sequence[str] = (), pretraining: str = "") -> str:
    """12 hexadecimal digits for all keys that differ from their defaults, except the keys and sections in ``without``.

    A new key of the project does not change the hash if its default changes nothing.

    Args:
        cfg: the complete config.
        without: the keys and sections to leave out.
        pretraining: the :func:`training_hash` of the training that produced the initial weights; "" if the run starts
            from MODEL.WEIGHTS.
    """
    defaults = {key: _plain(value) for key, value in leaves(default_config())}
    left_out = (*_PLACE, *without)
    changed = {
        key: _plain(value)
        for key, value in leaves(cfg)
        if _plain(value) != defaults.get(key) and not any(f"{key}.".startswith(f"{name}.") for name in left_out)
    }
    if pretraining:
        changed["pretraining"] = pretraining
    return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:12]


def training_hash(cfg: CfgNode, *, pretraining: str = "") -> str:
    """:func:`config_hash` without the keys that only scoring reads: the same for configs that train alike."""
    return config_hash(cfg, without=_SCORING, pretraining=pretraining)


def full_config_hash(cfg: CfgNode) -> str:
    """SHA-256 of all keys except OUTPUT_DIR and SEED, including keys that do not change the result.

    It names the exact config of a run in ``run.json``. Unlike :func:`config_hash`, it changes when the project gets a
    new key.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR, cfg.SEED = "", 0
    return hashlib.sha256(cfg.dump().encode()).hexdigest()


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
