"""Score two networks as one panoptic network: objects of one, the semantic map of the other.

  .venv/bin/python tools/score_two_networks.py --instances output/mask_rcnn/model_final.pth \\
      --semantic output/semantic/model_final.pth --num-gpus 8 OUTPUT_DIR output/two_networks

The config of a network is config.yaml in the folder of its weights, where a training writes it. The config of the
instances, with the KEY VALUE pairs, names the panoptic data set (DATASETS.TEST) and says how to merge
(MODEL.PANOPTIC_FPN.COMBINE). The scores are in results.json in OUTPUT_DIR; panoptic_seg_semantic_alone is the panoptic
quality without objects.
exit codes: 0 done, 2 to be fixed as the message says
"""

import argparse
from pathlib import Path

from fapn_d2.data import check_datasets
from fapn_d2.engine import Trainer, setup
from fapn_d2.engine.launching import add_launch_arguments, launch_as_asked
from fapn_d2.engine.setup import prepare_config
from fapn_d2.inference.predictor import find_config
from fapn_d2.inference.trained import trained_config
from fapn_d2.inference.two_networks import load_two_networks, two_networks_evaluator
from fapn_d2.messages import user_errors_as_messages


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    main.add_argument("--instances", required=True, help="checkpoint of the network that gives objects with masks")
    main.add_argument("--semantic", required=True, help="checkpoint of the network that gives the semantic map")
    main.add_argument("--instances-config", default="", help="default: config.yaml in the folder of --instances")
    main.add_argument("--semantic-config", default="", help="default: config.yaml in the folder of --semantic")
    add_launch_arguments(main)
    main.add_argument("--debug", action="store_true", help="tracebacks for all errors")
    main.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys of the instances")
    return main


def score(args: argparse.Namespace) -> None:
    with user_errors_as_messages(debug=args.debug):
        cfg = setup(args)
        semantic = trained_config(find_config(args.semantic_config, args.semantic), weights=args.semantic)
        model = load_two_networks(cfg, semantic)
        folder = Path(cfg.OUTPUT_DIR) / "inference"
        evaluators = [two_networks_evaluator(cfg, name, str(folder / name)) for name in cfg.DATASETS.TEST]
        Trainer.test(cfg, model, evaluators)


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with user_errors_as_messages(debug=args.debug):
        # setup() reads these two, as for train_net.py
        args.config_file = find_config(args.instances_config, args.instances)
        args.eval_only = True
        args.opts = [*args.opts, "MODEL.WEIGHTS", args.instances]
        cfg = prepare_config(args)
        check_datasets(cfg, cfg.DATASETS.TEST)
        launch_as_asked(score, args, use_cuda=cfg.MODEL.DEVICE.startswith("cuda"))


if __name__ == "__main__":
    main()
