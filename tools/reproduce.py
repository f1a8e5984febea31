"""The papers' tables, row by row: a list of the rows, a command for each row, and the papers' numbers beside ours.

.venv/bin/python tools/reproduce.py list  # every table and row, built or not
.venv/bin/python tools/reproduce.py show fapn.t3.faster_rcnn_r50_fapn  # its config, recipe, numbers and command
.venv/bin/python tools/reproduce.py run fapn.t3.faster_rcnn_r50_fapn --seeds 3 --num-gpus 8
.venv/bin/python tools/reproduce.py run fapn.t1.fapn_r50 --shrink 0.001  # a trial: few iterations, small images
.venv/bin/python tools/reproduce.py report  # all numbers, as Markdown and HTML
"""

import argparse
from pathlib import Path

import torch

from fapn_d2.messages import user_errors_as_messages
from fapn_d2.reproduction.jobs import jobs_of, of_one_seed, run_job
from fapn_d2.reproduction.ledger import find_row, load_ledgers
from fapn_d2.reproduction.listing import describe_list, describe_row, describe_runs
from fapn_d2.reproduction.records import read_records
from fapn_d2.reproduction.report import report, to_html, to_markdown
from fapn_d2.reproduction.trials import add_record, recall_table

OUTPUT = Path("output") / "reproduce"


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--debug", action="store_true", help="tracebacks for all errors")
    commands = top.add_subparsers(dest="command", required=True, metavar="list|show|run|report|trials")
    listing = commands.add_parser("list", help="tables and rows, built or not")
    listing.add_argument("paper", nargs="?", default="", help="beginning of the ids to list: fapn, sfnet.t3")
    show = commands.add_parser("show", help="one row: config, recipe, numbers, command")
    show.add_argument("row")
    run = commands.add_parser("run", help="train and score a row; continues after an interruption")
    run.add_argument("row")
    run.add_argument("--seeds", type=int, default=1, help="number of runs, with seeds 1, 2, ... (default: 1)")
    run.add_argument("--only-seed", type=int, metavar="N", help="only the run with seed N, for a job of a cluster")
    run.add_argument("--shrink", type=float, default=1.0, help="factor on iterations, batch and sizes, for a trial")
    run.add_argument("--num-gpus", type=int, default=max(1, torch.cuda.device_count()), help="processes (default: all)")
    run.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="further changes; makes it a trial")
    ours = commands.add_parser("trials", help="the table of configs/trials, from its records")
    ours.add_argument(
        "--add", type=Path, nargs="+", default=[], metavar="FOLDER", help="first record these finished runs"
    )
    write = commands.add_parser("report", help="write report.md and report.html")
    for command in (run, write):
        command.add_argument("--output", type=Path, default=OUTPUT, help=f"folder of all runs (default: {OUTPUT})")
    return top


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with user_errors_as_messages(debug=args.debug):
        ledgers = load_ledgers()
        if args.command == "list":
            print(describe_list(ledgers, prefix=args.paper))
        elif args.command == "show":
            print(describe_row(find_row(ledgers, args.row)))
        elif args.command == "run":
            row = find_row(ledgers, args.row)
            jobs = jobs_of(
                row,
                seeds=args.only_seed or args.seeds,
                output=args.output,
                shrink=args.shrink,
                processes=args.num_gpus,
                options=args.opts,
            )
            if args.only_seed:
                jobs = of_one_seed(jobs, args.only_seed)
            records = [run_job(job, gpus=args.num_gpus) for job in list(jobs)]
            print(describe_runs(row, records))
        elif args.command == "trials":
            for folder in args.add:
                print(add_record(folder))
            print(recall_table())
        else:
            blocks = report(ledgers, read_records(args.output))
            args.output.mkdir(parents=True, exist_ok=True)
            for name, text in (("report.md", to_markdown(blocks)), ("report.html", to_html(blocks))):
                (args.output / name).write_text(text)
                print(args.output / name)


if __name__ == "__main__":
    main()
