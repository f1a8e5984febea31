"""Time this project's scoring and the official scoring, and project both times to the whole data set.

The predictions are generated and have real sizes: street scenes of 1024x2048 pixels with 40 objects, panoptic images of
480x640 with twelve segments, 20 boxes or 1000 proposals per image. Both implementations read the same files and must
give the same numbers. Ours runs in --processes processes, as in an evaluation on several GPUs. The official scripts run
in one process.

examples:
  .venv/bin/python tools/benchmark_evaluation.py
  .venv/bin/python tools/benchmark_evaluation.py cityscapes boundary --images 50 --processes 8
"""

import argparse
import functools
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

import cv2

from fapn_d2.benchmark import scoring as benchmark
from fapn_d2.messages import user_errors_as_messages

#: Name -> (function, images by default).
MEASURES = {
    "cityscapes": (benchmark.cityscapes, 10),
    "boundary": (benchmark.boundary, 10),
    "panoptic": (benchmark.panoptic, 60),
    "coco": (benchmark.coco, 500),
    "proposals": (benchmark.proposals, 100),
}
DEFAULTS = ", ".join(f"{name} {images}" for name, (_, images) in MEASURES.items())

COLUMNS = "{:<42}{:>11}{:>11}{:>8}{:>12}{:>12}{:>12}"
HEADER = COLUMNS.format("measure", "processes", "ms/image", "images", "data set", "other way", "difference")


def row(timing: benchmark.Timing) -> str:
    ours, theirs = timing.projected()
    numbers = COLUMNS.format(
        timing.measure,
        timing.processes,
        f"{1000 * timing.seconds_per_image:.1f}",
        timing.images,
        f"{ours:.1f} s",
        f"{theirs:.1f} s",
        f"{timing.difference:.0e}",
    )
    return f"{numbers}  ({timing.reference})"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help=f"some of {', '.join(MEASURES)} (default: all)")
    parser.add_argument("--images", type=int, help=f"images that are scored (default: {DEFAULTS})")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="number of our processes (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, help="file for the numbers (default: none)")
    parser.add_argument("--debug", action="store_true", help="tracebacks for all errors")
    args = parser.parse_args(argv)
    args.measures = args.measures or list(MEASURES)
    if unknown := [name for name in args.measures if name not in MEASURES]:
        parser.error(f"{unknown[0]!r} is not a measure; allowed are {', '.join(MEASURES)}")
    if args.processes < 1 or (args.images is not None and args.images < args.processes):
        parser.error("at least one process, and an image for each")
    return args


def main(args: argparse.Namespace) -> None:
    cv2.setNumThreads(1)  # the number of processes is compared, not of threads; they inherit this
    print(HEADER)
    timings = []
    for name in args.measures:
        measure, images = MEASURES[name]
        with tempfile.TemporaryDirectory(prefix="benchmark_evaluation_") as folder:
            run = functools.partial(measure, Path(folder), images=args.images or images)
            timings.append(run() if name == "coco" else run(processes=args.processes))
        print(row(timings[-1]), flush=True)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps([asdict(timing) for timing in timings], indent=2))


if __name__ == "__main__":
    arguments = parse()
    with user_errors_as_messages(debug=arguments.debug):
        main(arguments)
