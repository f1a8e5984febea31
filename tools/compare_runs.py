"""Compare finished runs: a table of scores (mean and standard deviation over the runs of a name, and the difference to
the first name) and a picture of the loss curves.

  .venv/bin/python tools/compare_runs.py FPN=output/fpn-1,output/fpn-2 FaPN=output/fapn-1,output/fapn-2 \\
      --scores sem_seg/mIoU
"""

import argparse
from pathlib import Path

from fapn_d2.messages import user_errors_as_messages
from fapn_d2.reproduction.comparison import comparison_table, draw_losses
from fapn_d2.reproduction.runs import Group


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="+", metavar="NAME=FOLDER[,FOLDER...]", help="OUTPUT_DIR of runs, by method")
    parser.add_argument(
        "--scores", nargs="+", default=[], metavar="TASK/METRIC", help="default: all but single classes"
    )
    parser.add_argument("--picture", type=Path, default=Path("output/losses.png"), help="of the losses")
    parser.add_argument("--debug", action="store_true", help="tracebacks for all errors")
    args = parser.parse_args()
    with user_errors_as_messages(debug=args.debug):
        groups = [Group.parse(text) for text in args.groups]
        print(comparison_table(groups, args.scores))
        args.picture.parent.mkdir(parents=True, exist_ok=True)
        others = draw_losses(groups, args.picture)
    print(f"\nlosses: {args.picture.resolve()}")
    if others:
        print(
            f"not drawn, because not all runs have them: {', '.join(others)}; nor is the total, which they are part of"
        )


if __name__ == "__main__":
    main()
