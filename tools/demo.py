"""Train FaPN and the same network with FPN on generated shapes for a few minutes, print scores, write a page."""

import argparse
import os
import shlex
import sys
import time
from pathlib import Path

# By default, idle threads of OpenMP spin. If other programs run, they take the cores from the busy threads: the demo
# needed six times the CPU time on two shared cores. The setting must be made before torch starts the threads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from fapn_d2.demo.networks import run_demo, text_table
from fapn_d2.demo.page import write_report
from fapn_d2.messages import user_errors_as_messages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("output/demo"), help="folder for all files")
    parser.add_argument("--shrink", type=float, default=1.0, help="factor on the number of iterations, e.g. 0.1")
    parser.add_argument("--debug", action="store_true", help="tracebacks for all errors")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys for both networks")
    args = parser.parse_args()
    start = time.perf_counter()
    with user_errors_as_messages(debug=args.debug):
        networks = run_demo(args.output, shrink=args.shrink, opts=args.opts)
        print(f"\n{text_table(networks)}\n")
        command = shlex.join(["python", "tools/demo.py", *sys.argv[1:]])
        report = write_report(
            networks, args.output / "report.html", seconds=time.perf_counter() - start, command=command
        )
    print(f"{report.resolve()}: open it in any browser ({time.perf_counter() - start:.0f} s in all)")


if __name__ == "__main__":
    main()
