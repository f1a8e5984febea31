"""Write an archive for the server of a benchmark, and check one without the server.

  .venv/bin/python tools/submission.py write --task cityscapes-pixel --split test --name FaPN --num-gpus 8 \\
      --config-file configs/fapn/pointrend_semantic_R_50_FaPN_cityscapes.yaml --weights output/run/model_final.pth
  .venv/bin/python tools/submission.py write --task coco-masks --split val --name FaPN \\
      --config-file output/run/config.yaml --predictions output/run/inference/coco_2017_val
  .venv/bin/python tools/submission.py check output/submission/detections_val2017_FaPN_results.zip

After an interruption, the same `write` command continues, with any number of processes. `check` prints a numbered list
of faults, their places and fixes, or "ready for the server". datasets/SUBMISSION.md lists servers and commands.
exit codes: 0 done or ready; 2 an error that the message tells how to fix
"""

import argparse
import logging
from pathlib import Path

from fapn_d2.config.user_code import import_files
from fapn_d2.data.datasets.unlabelled import image_list, listed_images
from fapn_d2.engine.launching import add_launch_arguments, launch_as_asked, started_together
from fapn_d2.engine.setup import start_logs
from fapn_d2.evaluation.submission.archive import in_words
from fapn_d2.evaluation.submission.checks.submission import ImageList
from fapn_d2.evaluation.submission.pack import description
from fapn_d2.evaluation.submission.tasks import TASKS, Task, task_named
from fapn_d2.evaluation.submission.validator import validate
from fapn_d2.inference.submission import Request, prepare, write_submission
from fapn_d2.inference.trained import trained_config
from fapn_d2.messages import EXIT_USER_ERROR, user_errors_as_messages


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = main.add_subparsers(dest="verb", required=True)

    write = verbs.add_parser("write", help="predict and write an archive")
    write.add_argument(
        "--task", required=True, choices=TASKS, help="the task of the archive, which determines the server"
    )
    write.add_argument("--split", default="val", help="val (default), test, test-dev or test-challenge")
    write.add_argument("--name", required=True, metavar="ALGORITHM", help="becomes part of the file names")
    write.add_argument("--config-file", default="", help="default: config.yaml of the run behind --predictions")
    write.add_argument("--weights", help="checkpoint; default MODEL.WEIGHTS")
    write.add_argument(
        "--predictions",
        type=Path,
        help="OUTPUT_DIR/inference/<data set> of an evaluation that kept its predictions; nothing is predicted then",
    )
    write.add_argument("--dataset", default="", help="a registered data set of your own instead of the split's")
    write.add_argument("--output", type=Path, default=Path("output/submission"), help="folder; default %(default)s")
    write.add_argument("--restart", action="store_true", help="first remove the predictions of an earlier start")
    write.add_argument("--no-check", action="store_true", help="do not check the archive at the end")
    write.add_argument(
        "--allow-partial", action="store_true", help="predict even if some weights are missing or do not fit"
    )
    add_launch_arguments(write)
    write.add_argument("--debug", action="store_true", help="tracebacks for all errors")
    write.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys")

    check = verbs.add_parser("check", help="find what a server would refuse")
    check.add_argument("archive", type=Path)
    check.add_argument("--task", choices=TASKS, help="default: the task in the archive's manifest")
    check.add_argument("--split", help="default: the split in the archive's manifest")
    check.add_argument(
        "--images",
        help='the split\'s images: a registered data set, a JSON file with "images", or a text file of names; default: '
        "the split's data set, or the list in the archive's manifest if the data set is not on this machine",
    )
    check.add_argument("--weights", type=Path, help="the archive must be newer than this checkpoint")
    check.add_argument("--debug", action="store_true", help="tracebacks for all errors")
    return main


def main() -> None:
    args = parser().parse_args()
    with user_errors_as_messages(debug=args.debug):
        if args.verb == "check":
            raise SystemExit(0 if check(args) else EXIT_USER_ERROR)
        cfg = config_of(args)
        # an error is printed once, before there are many processes that would print it
        if not started_together(args.num_machines, args.dist_url):
            prepare(cfg, request_of(args))
        launch_as_asked(write, args, use_cuda=cfg.MODEL.DEVICE.startswith("cuda") and args.predictions is None)


def config_of(args: argparse.Namespace):
    """The config of a command line."""
    import_files(args.imports)
    if args.predictions and not args.config_file and (found := args.predictions / "../../config.yaml").is_file():
        args.config_file = str(found.resolve())
    return trained_config(args.config_file, weights=args.weights, opts=args.opts)


def request_of(args: argparse.Namespace) -> Request:
    """The archive that a command line requests."""
    return Request(
        *(task_named(args.task), args.split, args.name, args.output, args.dataset, args.predictions),
        restart=args.restart,
    )


def write(args: argparse.Namespace) -> None:
    with user_errors_as_messages(debug=args.debug):
        start_logs(str(args.output))
        request = request_of(args)
        archive = write_submission(config_of(args), request, allow_partial=args.allow_partial)
        if archive is None:
            return
        logging.getLogger("fapn_d2").info("Wrote %s (%s).", archive, in_words(archive.stat().st_size))
        if not args.no_check:
            images = ImageList(image_list(args.dataset), args.dataset, complete=False) if args.dataset else None
            if not report(archive, request.task, args.split, images, args):
                raise SystemExit(EXIT_USER_ERROR)


def check(args: argparse.Namespace) -> bool:
    """Check an archive and print the report; whether it is ready."""
    if not args.archive.is_file():
        raise FileNotFoundError(f"there is no archive {args.archive}")
    known = description(args.archive)
    task, split = args.task or known.get("task"), args.split or known.get("split")
    if not task or not split:
        raise ValueError(
            f"there is no {args.archive.name}.manifest.json beside the archive, which says what it is for: name it by "
            "--task and --split"
        )
    images = images_named(args.images) if args.images else None
    return report(args.archive, task_named(task), split, images, args)


def report(archive: Path, task: Task, split: str, images: ImageList | None, args: argparse.Namespace) -> bool:
    """Print the validator's report; returns whether the archive is ready."""
    known = description(archive)
    images = images or images_of(task, split, known, archive)
    newer_than = None
    if getattr(args, "verb", "") == "check" and args.weights:
        if not args.weights.is_file():
            raise FileNotFoundError(f"there is no checkpoint {args.weights}")
        newer_than = (args.weights.stat().st_mtime, str(args.weights))
    elif known.get("weights_time"):
        newer_than = (known["weights_time"], "the weights")
    found = validate(archive, task, split, images, newer_than=newer_than)
    print(found.text())
    return found.ready


def images_named(source: str) -> ImageList:
    """A list that the user names.

    Raises:
        FileNotFoundError: there is no such data set or file.
        ValueError: the file names no images.
    """
    path = Path(source)
    if not path.is_file():
        return ImageList(image_list(source), source, complete=False)
    if path.suffix == ".json":
        return ImageList(listed_images(source, str(path.parent)), source, complete=False)
    names = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    if not names:
        raise ValueError(f"{source} names no images")
    records = [{"file_name": str(path.parent / name), "image_id": image_id(name)} for name in names]
    return ImageList(records, source, complete=False)


def image_id(name: str) -> str:
    """Cityscapes' <city>_<sequence>_<frame>, else the stem."""
    return Path(name).stem.removesuffix("_leftImg8bit")


def images_of(task: Task, split: str, known: dict, archive: Path) -> ImageList:
    """The images of the split's data set if it is on this machine, else the list in the archive's manifest."""
    dataset = known.get("dataset") or task.split(split).dataset
    own = dataset != task.split(split).dataset
    try:
        return ImageList(image_list(dataset), dataset, complete=not own)
    except (FileNotFoundError, ValueError) as error:
        if not known.get("list"):
            raise type(error)(f"{error}\nName the images by --images.") from error
        return ImageList(known["list"], f"the list in {archive.name}.manifest.json", complete=not own)


if __name__ == "__main__":
    main()
