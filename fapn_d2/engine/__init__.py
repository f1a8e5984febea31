"""From a config to a trained and scored network: set-up, training loop, checkpoints, launching."""

from .checkpoint import Checkpointer
from .config_loading import load_config

__all__ = ["Checkpointer", "load_config"]
