"""Draw Panoptic FPN's Figure 4: what FPN, dilation and a symmetric decoder cost, by the scale of the output.

  .venv/bin/python tools/plot_resolution_cost.py
  .venv/bin/python tools/plot_resolution_cost.py --size 1024 2048 --output output/figure4.png --json output/figure4.json

Multiply-adds and activations (elements of the outputs) of convolutions are counted, without data or weights. Prints the
table, writes the picture (PNG, SVG or PDF by its name) and, with --json, the numbers.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from fapn_d2.files import write_atomically
from fapn_d2.messages import user_errors_as_messages
from fapn_d2.reproduction.resolution_cost import resolution_costs, table
from fapn_d2.visualization.resolution_chart import draw_resolution_costs


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument(
        "--size", nargs=2, type=int, default=(1024, 2048), metavar=("H", "W"), help="of the image, in pixels"
    )
    top.add_argument("--output", type=Path, default=Path("output/resolution_cost.png"), help="the picture")
    top.add_argument("--json", type=Path, help="file for the numbers")
    top.add_argument("--debug", action="store_true", help="tracebacks for all errors")
    return top


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with user_errors_as_messages(debug=args.debug):
        costs = resolution_costs(tuple(args.size))
        print(table(costs))
        args.output.parent.mkdir(parents=True, exist_ok=True)
        points = [(cost.kind, cost.stride, cost.tera_macs, cost.giga_activations) for cost in costs]
        draw_resolution_costs(points, args.output)
        print(args.output)
        if args.json:
            content = {"size": list(args.size), "costs": [_rounded(asdict(cost)) for cost in costs]}
            args.json.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(args.json, lambda file: file.write(json.dumps(content, indent=1).encode() + b"\n"))
            print(args.json)


def _rounded(cost: dict) -> dict:
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in cost.items()}


if __name__ == "__main__":
    main()
