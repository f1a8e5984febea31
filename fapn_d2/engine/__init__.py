"""The training run: set-up, launching, training loop, evaluation during and after it."""

from .launching import launch, launch_as_asked, started_together, under_torchrun
from .setup import argument_parser, prepare_config, setup
from .trainer import Trainer, evaluate

__all__ = [
    "Trainer",
    "argument_parser",
    "evaluate",
    "launch",
    "launch_as_asked",
    "prepare_config",
    "setup",
    "started_together",
    "under_torchrun",
]
