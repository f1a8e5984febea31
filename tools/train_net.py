"""Train or score any config of this project, or of Detectron2. ``--help`` has examples."""

import argparse

from fapn_d2.data import check_datasets
from fapn_d2.engine import Trainer, argument_parser, evaluate, launch_as_asked, prepare_config, setup, under_torchrun
from fapn_d2.messages import user_errors_as_messages


def main(args: argparse.Namespace) -> None:
    with user_errors_as_messages(debug=args.debug):
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
        if not under_torchrun():  # what is wrong is said once, before there are many processes to say it
            check_datasets(cfg, cfg.DATASETS.TEST if args.eval_only else None)
        launch_as_asked(main, args, use_cuda=cfg.MODEL.DEVICE.startswith("cuda"))
