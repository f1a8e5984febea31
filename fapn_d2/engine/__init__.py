"""The training run: set-up, launching, training loop, evaluation during and after it."""

from .launching import launch, under_torchrun
from .setup import argument_parser, prepare_config, setup
from .trainer import Trainer, evaluate

__all__ = ["Trainer", "argument_parser", "evaluate", "launch", "prepare_config", "setup", "under_torchrun"]
