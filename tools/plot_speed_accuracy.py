"""Plot frames per second against mIoU of real-time networks, as in SFNet's Figure 1. The papers' numbers are hollow
points. Ours are filled points, if both numbers were measured. Writes a PNG for each table with both numbers, and prints
the tables.

  .venv/bin/python tools/plot_speed_accuracy.py
  .venv/bin/python tools/benchmark.py speed --json output/speed.json
  .venv/bin/python tools/plot_speed_accuracy.py sfnet.t10 --records output/reproduce --speeds output/speed.json
"""

import argparse
from pathlib import Path

from fapn_d2.messages import user_errors_as_messages
from fapn_d2.reproduction.ledger import load_ledgers
from fapn_d2.reproduction.records import read_records
from fapn_d2.reproduction.speed_accuracy import MEASURED, OTHERS, PAPER, SpeedTable, read_timings, speed_tables
from fapn_d2.visualization.scatter import Series, draw_scatter

# Red and blue as in the figure.
LOOKS = {OTHERS: ("#b3423a", "s", False), PAPER: ("#1f63c4", "o", False), MEASURED: ("#1f63c4", "o", True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", default="", help="start of a table's row ids, as in sfnet.t6; default: all")
    parser.add_argument("--records", type=Path, default=Path("output/reproduce"), help="folder of reproduce.py's runs")
    parser.add_argument("--speeds", type=Path, nargs="+", default=[], help="files of benchmark.py speed --json")
    parser.add_argument("--output", type=Path, default=Path("output/speed_accuracy"), help="folder of the pictures")
    parser.add_argument("--debug", action="store_true", help="tracebacks for all errors")
    args = parser.parse_args()
    with user_errors_as_messages(debug=args.debug):
        timings = [timing for path in args.speeds for timing in read_timings(path)]
        tables = speed_tables(load_ledgers(), read_records(args.records), timings, prefix=args.table)
        args.output.mkdir(parents=True, exist_ok=True)
        for table in tables:
            path = args.output / f"{table.slug.replace('.', '_')}.png"
            _draw(table, path)
            print(f"{table.text()}\n{path}\n")


def _draw(table: SpeedTable, path: Path) -> None:
    series = []
    for kind, (color, marker, filled) in LOOKS.items():
        known = [p for p in table.points if p.kind == kind and p.fps is not None and p.miou is not None]
        points = [(p.fps, p.miou, p.label) for p in known]
        series.append(Series(kind, points, color, marker, filled))
    draw_scatter(series, path, title=table.title, note=table.about, x_label="frames per second", y_label="mIoU (%)")


if __name__ == "__main__":
    main()
