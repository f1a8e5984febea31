"""Train or score any config of this project, or of Detectron2. ``--help`` has examples."""

import argparse
import os
import signal

if __name__ in ("__main__", "__mp_main__"):
    # The imports below take seconds. Nothing is lost by then, so a job scheduler may start the run again: code 75.
    for _name in ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGINT", "SIGHUP"):
        if signal.getsignal(getattr(signal, _name)) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(getattr(signal, _name), lambda *_: os._exit(75))

from fapn_d2.config.values import check_data_names
from fapn_d2.data import check_datasets
from fapn_d2.engine import Trainer, argument_parser, evaluate, launch_as_asked, prepare_config, setup, started_together
from fapn_d2.messages import user_errors_as_messages


def main(args: argparse.Namespace) -> None:
    with user_errors_as_messages(debug=args.debug, also=(OSError,)):  # a full disk
        cfg = setup(args)
        if args.eval_only:
            evaluate(cfg, resume=args.resume, allow_partial=args.allow_partial)
            return
        trainer = Trainer(cfg, allow_partial=args.allow_partial)
        trainer.resume_or_load(resume=args.resume)
        trainer.train()


if __name__ == "__main__":
    args = argument_parser().parse_args()
    with user_errors_as_messages(debug=args.debug):
        cfg = prepare_config(args)
        check_data_names(cfg, training=not args.eval_only)
        # an error is printed once, before there are many processes that would print it
        if not started_together(args.num_machines, args.dist_url):
            check_datasets(cfg, cfg.DATASETS.TEST if args.eval_only else None)
        use_cuda = cfg.MODEL.DEVICE.startswith("cuda")
        launch_as_asked(main, args, use_cuda=use_cuda, timeout=cfg.DISTRIBUTED.TIMEOUT_EVAL)
