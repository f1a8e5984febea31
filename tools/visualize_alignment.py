"""Draw the alignments of a trained pyramid: feature maps before and after each alignment, displacements of samples
(FaPN's offsets, SFNet's flow) in colours and as arrows, and the predictions and errors of one or two networks side by
side. Writes PNGs and one HTML page.

  .venv/bin/python tools/visualize_alignment.py --config-file output/demo/FaPN/config.yaml \\
      --weights output/demo/FaPN/model_final.pth \\
      --against output/demo/FPN/config.yaml --against-weights output/demo/FPN/model_final.pth
  .venv/bin/python tools/visualize_alignment.py --name SFNet --against-name "without flow" \\
      --config-file output/sfnet/config.yaml --weights output/sfnet/model_final.pth \\
      --against output/plain/config.yaml --against-weights output/plain/model_final.pth
"""

import argparse
from pathlib import Path

from fapn_d2.config.user_code import add_import_argument, import_files
from fapn_d2.inference.trained import trained_config
from fapn_d2.messages import user_errors_as_messages
from fapn_d2.visualization.alignment_page import Network, choose_records, write_alignment_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, help="config of the network whose alignments are drawn")
    parser.add_argument("--weights", help="its checkpoint; default MODEL.WEIGHTS")
    parser.add_argument("--name", default="FaPN", help="its name in the pictures")
    parser.add_argument("--against", metavar="CONFIG", help="config of another network, shown beside it")
    parser.add_argument("--against-weights", help="checkpoint of the other network; default MODEL.WEIGHTS")
    parser.add_argument("--against-name", default="FPN", help="name of the other network")
    parser.add_argument("--image", nargs="+", default=[], help="files and folders; default: images of DATASETS.TEST")
    parser.add_argument("--number", type=int, default=3, help="number of images of DATASETS.TEST")
    parser.add_argument("--score", type=float, default=0.5, help="lowest score of objects that are drawn")
    parser.add_argument("--output", type=Path, default=Path("output/alignment"), help="folder for PNGs and index.html")
    add_import_argument(parser)
    parser.add_argument("--debug", action="store_true", help="tracebacks for all errors")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys for both networks")
    args = parser.parse_args()
    with user_errors_as_messages(debug=args.debug):
        import_files(args.imports)
        networks = [_load(args.name, args.config_file, args.weights, args.opts)]
        if args.against:
            networks.insert(0, _load(args.against_name, args.against, args.against_weights, args.opts))
        records = choose_records(networks[-1].cfg.DATASETS.TEST[0], files=args.image, number=args.number)
        page = write_alignment_report(networks, records, args.output, least_score=args.score)
    print(f"{page.resolve()}: open it in any browser")


def _load(name: str, config_file: str, weights: str | None, opts: list[str]) -> Network:
    return Network.load(name, trained_config(config_file, weights=weights, opts=opts))


if __name__ == "__main__":
    main()
