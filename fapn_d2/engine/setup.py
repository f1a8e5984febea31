"""The command line, the logs and the record of a run."""

import argparse
import logging
import os
import sys
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from ..config.loading import load_config
from ..config.user_code import add_import_argument, import_files
from ..config.values import check_values
from ..data.class_numbers import describe_class_numbers
from ..files import write_json, write_text_atomically
from ..inference.box_augmentation import check_augmentation
from ..inference.semantic import check_inference
from ..inference.trained import use_available_device
from .folder_lock import hold
from .provenance import describe_run
from .signals import current_signals

logger = logging.getLogger(__name__)

EPILOG = """\
examples:
  train          .venv/bin/python tools/train_net.py --config-file configs/fapn/mask_rcnn_R_50_FaPN_1x.yaml --num-gpus 8
  change keys    the same, then SOLVER.MAX_ITER 1000 OUTPUT_DIR output/short
  continue       the same, with --resume before the keys
  score          .venv/bin/python tools/train_net.py --config-file configs/fapn/mask_rcnn_R_50_FaPN_1x.yaml \\
                     --eval-only MODEL.WEIGHTS model_final.pth

Without a GPU, --num-gpus is the number of processes on the CPU. Under torchrun, torchrun sets that number.
SIGTERM, SIGUSR1, SIGUSR2, SIGHUP and the first Ctrl-C save the state and end the run; OUTPUT_DIR/stopped.txt says so.
A second Ctrl-C leaves at once.
exit codes: 0 done, 1 failed, 2 the message says what to fix, 75 stopped by a signal (continue with --resume)
"""


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's command line, with ``--import``, ``--allow-partial`` and ``--debug``."""
    parser = default_argument_parser(epilog=EPILOG)
    parser.add_argument(
        "--allow-partial",
        action="store_true",
        help="warn, instead of stopping, if weights are missing or do not fit the network",
    )
    add_import_argument(parser)
    parser.add_argument("--debug", action="store_true", help="show tracebacks for all errors (also: FAPN_DEBUG=1)")
    parser.set_defaults(dist_url="auto")  # each run has its own port
    return parser


def prepare_config(args: argparse.Namespace) -> CfgNode:
    """The config of a command line, not frozen, after the files of ``--import`` have run.

    On a machine without a GPU, its device is the CPU.

    Raises:
        ValueError, FileNotFoundError: see ``load_config``, ``check_inference`` and ``check_augmentation``.
    """
    import_files(args.imports)
    cfg = load_config(args.config_file, args.opts or [])
    use_available_device(cfg)
    check_values(cfg)
    check_inference(cfg)
    check_augmentation(cfg)
    return cfg


def setup(args: argparse.Namespace) -> CfgNode:
    """Read the config, start the logs, seed the generators, and write the record of the run to OUTPUT_DIR.

    Each process must call this function instead of Detectron2's ``default_setup``, which prints the whole config and
    environment. A negative SEED is replaced by a random seed, so that the record contains the seed.

    Args:
        args: the arguments that :func:`argument_parser` parsed.

    Returns:
        The frozen config.

    Raises:
        ValueError, FileNotFoundError: see ``load_config``, :func:`check_output_folder` and ``folder_lock.hold``.
    """
    cfg = prepare_config(args)
    if cfg.SEED < 0:
        cfg.SEED = comm.shared_random_seed()
    cfg.freeze()
    if comm.is_main_process():
        check_output_folder(cfg.OUTPUT_DIR)
        if not args.eval_only:
            hold(cfg.OUTPUT_DIR)
    comm.synchronize()  # the others would make the folder
    if not args.eval_only:  # a stopped evaluation leaves nothing to continue
        current_signals().folder = cfg.OUTPUT_DIR
    start_logs(cfg.OUTPUT_DIR)
    seed_all_rng(cfg.SEED + comm.get_rank())
    if not args.eval_only:
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    if cfg.MODEL.DEVICE == "cpu":
        reason = "as MODEL.DEVICE says" if torch.cuda.is_available() else "there is no GPU on this machine"
        logger.info("Running on the CPU: %s.", reason)
    for sentence in describe_class_numbers(cfg):
        logger.info("%s", sentence)
    if comm.is_main_process():
        record = describe_run(cfg, args.config_file)
        logger.info("Command: %s", record["command"])
        logger.info("Commit %s, seed %d, versions %s", record["commit"], record["seed"], record["versions"])
        folder = Path(cfg.OUTPUT_DIR)
        write_text_atomically(folder / "config.yaml", cfg.dump())
        write_text_atomically(folder / "environment.txt", collect_env_info())
        write_json(folder / "run.json", record)
        logger.info("The full config, the environment and run.json are in %s", folder)
    return cfg


def start_logs(folder: str) -> None:
    """Send the messages of this project, Detectron2 and fvcore to the screen (rank 0) and to ``log.txt``.

    Each other rank has its own log file beside ``log.txt``.
    """
    for name in ("fapn_d2", "detectron2", "fvcore"):
        logs = setup_logger(folder, distributed_rank=comm.get_rank(), name=name)
        for handler in logs.handlers:
            handler.handleError = _say_once  # by default, a full disk gives a traceback for each line


def check_output_folder(folder: str) -> None:
    """Make ``folder`` and write a file there, so that a mistake is known before hours of work.

    Raises:
        ValueError: OUTPUT_DIR is empty, is a file, or cannot be written.
    """
    if not folder:
        raise ValueError("OUTPUT_DIR is empty; set it to a folder that can be written")
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise ValueError(f"OUTPUT_DIR {folder} is a file; set it to a folder")
    try:
        os.makedirs(folder, exist_ok=True)
        probe = Path(folder) / f"probe.{os.getpid()}"
        write_text_atomically(probe, " " * 4096)
        probe.unlink()
    except OSError as error:
        raise ValueError(f"OUTPUT_DIR {folder} cannot be used: {error}. Set it to a folder with space") from error


_said: set[str] = set()


def _say_once(record: logging.LogRecord) -> None:
    error = sys.exc_info()[1]
    if str(error) not in _said:
        _said.add(str(error))
        print(f"warning: a log cannot be written ({error}); the run goes on", file=sys.stderr, flush=True)
