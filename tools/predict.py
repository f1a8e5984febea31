"""Predict images with a trained network: pictures, objects as JSON, label PNGs, panoptic PNGs, and a page.

  .venv/bin/python tools/predict.py --weights output/demo/FaPN/model_final.pth --input photographs
  .venv/bin/python tools/predict.py --config-file configs/fapn/mask_rcnn_R_50_FaPN_1x.yaml --weights model_final.pth \\
      --input a.jpg "holiday/*.png" --score 0.7

Images are read, resized and normalised as in the evaluation of the config; TEST.SEM_SEG is used too. A file that cannot
be read is named and left out. The exit code is then 2.
"""

import argparse
import sys
from pathlib import Path

from fapn_d2.config.user_code import add_import_argument, import_files
from fapn_d2.inference.predictor import Predictor, find_images
from fapn_d2.messages import EXIT_USER_ERROR, user_errors_as_messages
from fapn_d2.visualization.prediction_page import predict_images


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--config-file", default="", help="default: config.yaml in the folder of --weights")
    top.add_argument("--weights", default="", help="a checkpoint; default: MODEL.WEIGHTS of the config")
    top.add_argument("--input", nargs="+", required=True, help="image files, folders, patterns with *")
    top.add_argument("--output", type=Path, default=Path("output/predict"), help="folder for all results")
    top.add_argument("--score", type=float, default=0.5, help="lowest score of objects that are kept and drawn")
    top.add_argument("--batch", type=int, default=1, help="largest number of images of the same size per batch")
    top.add_argument("--no-pictures", action="store_true", help="write the results only")
    add_import_argument(top)
    top.add_argument("--debug", action="store_true", help="tracebacks for all errors")
    top.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys")
    return top


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with user_errors_as_messages(debug=args.debug):
        import_files(args.imports)
        if args.batch < 1:
            raise ValueError(f"--batch {args.batch}: a batch has at least one image")
        images = find_images(args.input)
        predictor = Predictor.load(args.config_file, weights=args.weights, opts=args.opts)
        summary = predict_images(
            predictor, images, args.output, least_score=args.score, batch=args.batch, pictures=not args.no_pictures
        )
    print(summary.text())
    if summary.broken:
        print(f"{len(summary.broken)} of {len(images)} images were left out:", file=sys.stderr)
        print("\n".join(f"  {reason}" for reason in summary.broken), file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR)


if __name__ == "__main__":
    main()
