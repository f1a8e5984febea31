"""Parameters, GFLOPs and activations of a config's network, module by module.

    .venv/bin/python tools/analyze_model.py --config-file configs/sfnet/semantic_R_18_SFNet_cityscapes.yaml \\
        --convention sfnet
    .venv/bin/python tools/analyze_model.py --config-file configs/fapn/realtime_R_18_FaPN_cityscapes.yaml \\
        --size 768 1536 --convention conv_macs --depth 3 MODEL.NECK.FUSE sum

Papers count differently: "macs" are multiply-adds, "2macs" twice as many, "conv_macs" the numbers of FaPN's Table I,
"sfnet" those of SFNet's tables. Activations are the elements of the outputs of all convolutions, in billions (G), as in
Panoptic FPN's Table 1a:

    .venv/bin/python tools/analyze_model.py --config-file configs/panoptic_fpn/semantic_R_101_FPN_cityscapes.yaml \\
        --size 1024 2048 --convention conv_macs
"""

import argparse

from fapn_d2.config.loading import load_config
from fapn_d2.config.user_code import add_import_argument, import_files
from fapn_d2.messages import user_errors_as_messages
from fapn_d2.reproduction.analysis import analyze
from fapn_d2.reproduction.complexity import CONVENTIONS


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--config-file", required=True)
    top.add_argument(
        "--size", nargs=2, type=int, default=(1024, 1024), metavar=("H", "W"), help="size of the image in pixels"
    )
    top.add_argument("--convention", choices=list(CONVENTIONS), default="macs", help="what is counted (default: macs)")
    top.add_argument("--depth", type=int, default=2, help="levels of modules to print (default: 2)")
    add_import_argument(top)
    top.add_argument("--debug", action="store_true", help="tracebacks for all errors")
    top.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="what to change in the config")
    return top


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with user_errors_as_messages(debug=args.debug):
        import_files(args.imports)
        cfg = load_config(args.config_file, args.opts)
        print(analyze(cfg, size=tuple(args.size), convention=args.convention).table(args.depth))


if __name__ == "__main__":
    main()
