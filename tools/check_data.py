"""Read every file and annotation of data sets, and report what a training would stumble over.

  .venv/bin/python tools/check_data.py shapes_train shapes_val
  .venv/bin/python tools/check_data.py --config-file configs/quickstart/own_objects.yaml --workers 16

Reports missing, unreadable and wrongly sized files, label values out of range, boxes and masks that cannot be learned,
ids that do not fit, and images that DATASETS.TRAIN and TEST share. Writes check.json and index.html.
exit codes: 0 no fault, 2 faults, or the message says what to fix
"""

import argparse
import os
from pathlib import Path

from fapn_d2.config.loading import load_config
from fapn_d2.config.user_code import add_import_argument, import_files
from fapn_d2.data.inspection import inspect_datasets
from fapn_d2.files import write_json
from fapn_d2.messages import EXIT_USER_ERROR, user_errors_as_messages
from fapn_d2.visualization.data_page import write_data_page


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("datasets", nargs="*", metavar="DATASET", help="default: DATASETS.TRAIN and TEST of the config")
    top.add_argument("--config-file", default="", help="a config; it may describe own data under DATASETS.CUSTOM")
    top.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    top.add_argument("--output", type=Path, default=Path("output/check_data"), help="folder of both files")
    add_import_argument(top)
    top.add_argument("--debug", action="store_true", help="tracebacks for all errors")
    return top


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with user_errors_as_messages(debug=args.debug):
        import_files(args.imports)
        cfg = load_config(args.config_file)
        names = args.datasets or [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
        if not names:
            raise ValueError("there is nothing to check: name data sets, or a config (--config-file)")
        reports = inspect_datasets(names, train=cfg.DATASETS.TRAIN, workers=args.workers if args.workers > 1 else 0)
        args.output.mkdir(parents=True, exist_ok=True)
        write_json(args.output / "check.json", [report.as_dict() for report in reports])
        page = write_data_page(reports, args.output / "index.html")
    for report in reports:
        print(f"{report.name}: {report.images} images, {report.objects} objects, fingerprint {report.fingerprint[:12]}")
        for sign, entries in (("fault", report.faults), ("note", report.notes)):
            for kind, entry in entries.items():
                print(f"  {sign}: {entry['count']} {kind}, as {entry['examples'][0]}")
    print(f"{page.resolve()}: open it in any browser")
    if any(report.faults for report in reports):
        raise SystemExit(EXIT_USER_ERROR)


if __name__ == "__main__":
    main()
