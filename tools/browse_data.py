"""Training samples as the network sees them: after augmentation, in the order of the sampler, with their labels.

  .venv/bin/python tools/browse_data.py --config-file configs/quickstart/own_objects.yaml
  .venv/bin/python tools/browse_data.py --config-file configs/quickstart/own_objects.yaml --class star --number 10

Writes one PNG per sample and index.html.
exit codes: 0 done, 2 the message says what to fix
"""

import argparse
from pathlib import Path

from fapn_d2.config.loading import load_config
from fapn_d2.config.user_code import add_import_argument, import_files
from fapn_d2.config.values import check_values
from fapn_d2.messages import user_errors_as_messages
from fapn_d2.visualization.browse_page import browse


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--config-file", required=True, help="config of a training")
    top.add_argument("--number", type=int, default=20, help="how many samples (default: %(default)s)")
    top.add_argument("--class", dest="only", default="", metavar="NAME", help="only samples that show this class")
    top.add_argument("--output", type=Path, default=Path("output/browse_data"), help="folder (default: %(default)s)")
    add_import_argument(top)
    top.add_argument("--debug", action="store_true", help="tracebacks for all errors")
    top.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys")
    return top


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with user_errors_as_messages(debug=args.debug):
        if args.number < 1:
            raise ValueError(f"--number {args.number}: it must be at least 1")
        import_files(args.imports)
        cfg = load_config(args.config_file, args.opts)
        check_values(cfg)
        page = browse(cfg, args.output, number=args.number, only=args.only)
    print(f"{page.resolve()}: open it in any browser")


if __name__ == "__main__":
    main()
