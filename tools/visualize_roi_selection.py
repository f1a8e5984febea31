"""AugFPN's Figure 4 from a trained detector: the mean weight of each pyramid level in Soft RoI Selection, in four
charts by the level that FPN's rule would choose. Prints the numbers and writes the picture.

  .venv/bin/python tools/visualize_roi_selection.py --config-file configs/augfpn/faster_rcnn_R_50_AugFPN_1x.yaml \\
      --output output/figure_4.png MODEL.WEIGHTS output/model_final.pth
"""

import argparse
from pathlib import Path

from fapn_d2.config.user_code import add_import_argument
from fapn_d2.data import build_test_loader, check_datasets
from fapn_d2.engine import prepare_config
from fapn_d2.inference.trained import load_trained
from fapn_d2.messages import user_errors_as_messages
from fapn_d2.visualization.roi_selection import draw_selection, measure_selection


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, help="config of a detector with Soft RoI Selection")
    parser.add_argument("--images", type=int, default=0, help="number of images of DATASETS.TEST; default: all")
    parser.add_argument("--output", type=Path, default=Path("output/roi_selection.png"), help="picture to write")
    add_import_argument(parser)
    parser.add_argument("--debug", action="store_true", help="tracebacks for all errors")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys, as MODEL.WEIGHTS")
    args = parser.parse_args()
    with user_errors_as_messages(debug=args.debug):
        cfg = prepare_config(args)
        check_datasets(cfg, cfg.DATASETS.TEST)
        model = load_trained(cfg)
        loader = build_test_loader(cfg, cfg.DATASETS.TEST[0])
        ratios = measure_selection(model, loader, images=args.images)
        args.output.parent.mkdir(parents=True, exist_ok=True)
        draw_selection(ratios, args.output)
    print(ratios.table())
    print(f"{args.output.resolve()}: mean weights, not normalised; rows need not add up to 1")


if __name__ == "__main__":
    main()
