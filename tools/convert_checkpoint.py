"""Convert a checkpoint of a paper's official code to ours, or back, and print the renamed tensors.

    .venv/bin/python tools/convert_checkpoint.py official.pth ours.pth \\
        --config-file configs/fapn/mask_rcnn_R_50_FaPN_1x.yaml
    .venv/bin/python tools/convert_checkpoint.py ours.pth official.pth --paper fapn --to official

With a config file, the weights must fill its network exactly. Only tensors are read and written. SFNet's head module
can be converted alone (--paper sfnet; sfnet-df1 or sfnet-df2 for a head of three levels).
"""

import argparse

from fapn_d2.checkpoint.convert import DIRECTIONS, KEY_MAPS, convert_file
from fapn_d2.config.loading import load_config
from fapn_d2.config.user_code import add_import_argument, import_files
from fapn_d2.messages import user_errors_as_messages


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("source", help="checkpoint to read: .pth, .pkl or .safetensors")
    top.add_argument("target", help="checkpoint to write: .pth, must not exist")
    top.add_argument("--paper", choices=sorted(KEY_MAPS), default="fapn", help="whose official code (default: fapn)")
    top.add_argument("--to", choices=DIRECTIONS, default="ours", help="direction (default: ours)")
    top.add_argument("--config-file", default="", help="config of the network that the weights must fill")
    top.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="changes to the config")
    top.add_argument("--quiet", action="store_true", help="print the counts, not every name")
    add_import_argument(top)
    top.add_argument("--debug", action="store_true", help="tracebacks for all errors")
    return top


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with user_errors_as_messages(debug=args.debug):
        import_files(args.imports)
        if args.opts and not args.config_file:
            raise ValueError("--opts changes a config; name it by --config-file")
        cfg = load_config(args.config_file, args.opts) if args.config_file else None
        conversion = convert_file(args.source, args.target, paper=args.paper, to=args.to, cfg=cfg)
        report = conversion.report()
        print(report.splitlines()[-1] if args.quiet else report)
        fits = " and fills the network of the config" if cfg else ""
        print(f"{args.target} is written{fits}")


if __name__ == "__main__":
    main()
