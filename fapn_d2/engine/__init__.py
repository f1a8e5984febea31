"""From a config to a trained and scored network: set-up, training loop, checkpoints, launching."""

from .checkpoint import Checkpointer
from .config_loading import default_config, load_config
from .launching import launch, under_torchrun, user_errors_as_messages
from .realtime import RealTimeSegmentor
from .setup import argument_parser, prepare_config, setup
from .trainer import Trainer, evaluate

__all__ = [
    "Checkpointer",
    "RealTimeSegmentor",
    "Trainer",
    "argument_parser",
    "default_config",
    "evaluate",
    "launch",
    "load_config",
    "prepare_config",
    "setup",
    "under_torchrun",
    "user_errors_as_messages",
]
