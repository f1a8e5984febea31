"""Write the proposals of a trained region proposal network for the images of a data set.

  .venv/bin/python tools/extract_proposals.py --config-file configs/fpn/rpn_R_50_FPN_40k.yaml \\
      --weights output/rpn/model_final.pth --dataset coco_2017_train --output output/proposals/coco_2017_train \\
      --num-gpus 8
  .venv/bin/python tools/train_net.py --config-file configs/fpn/fast_rcnn_R_50_FPN_80k.yaml \\
      DATASETS.PROPOSAL_FILES_TRAIN "('output/proposals/coco_2017_train',)" \\
      DATASETS.PROPOSAL_FILES_TEST "('output/proposals/coco_2017_val',)"

After an interruption, the same command continues, with any number of processes.
exit codes: 0 done; 2 an error that the message tells how to fix
"""

import argparse
from pathlib import Path

from fapn_d2.config.user_code import import_files
from fapn_d2.engine.launching import add_launch_arguments, launch_as_asked
from fapn_d2.engine.setup import start_logs
from fapn_d2.inference.proposals import extract_proposals
from fapn_d2.inference.trained import trained_config
from fapn_d2.messages import user_errors_as_messages


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    main.add_argument("--config-file", required=True, help="config of a ProposalNetwork")
    main.add_argument("--weights", help="checkpoint; default MODEL.WEIGHTS")
    main.add_argument("--dataset", required=True, help="a registered data set")
    main.add_argument("--output", type=Path, required=True, help="folder of the proposals")
    main.add_argument("--per-image", type=int, default=2000, help="most proposals per image (default: %(default)s)")
    main.add_argument("--restart", action="store_true", help="first remove the predictions of an earlier start")
    main.add_argument("--allow-partial", action="store_true", help="continue if some weights are missing or do not fit")
    add_launch_arguments(main)
    main.add_argument("--debug", action="store_true", help="tracebacks for all errors")
    main.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys")
    return main


def config_of(args: argparse.Namespace):
    """The config of a command line."""
    import_files(args.imports)
    return trained_config(args.config_file, weights=args.weights, opts=args.opts)


def extract(args: argparse.Namespace) -> None:
    with user_errors_as_messages(debug=args.debug):
        start_logs(str(args.output.parent))
        options = {"per_image": args.per_image, "restart": args.restart, "allow_partial": args.allow_partial}
        extract_proposals(config_of(args), args.dataset, args.output, **options)


def main() -> None:
    args = parser().parse_args()
    with user_errors_as_messages(debug=args.debug):
        launch_as_asked(extract, args, use_cuda=config_of(args).MODEL.DEVICE.startswith("cuda"))


if __name__ == "__main__":
    main()
