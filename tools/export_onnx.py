"""Write a semantic network as an ONNX file for images of any size, after comparing it with PyTorch by onnxruntime.

The input of the file is the image with values 0 to 255. Its output are logits at the image's size. The colour order and
the classes are in its metadata. A file that differs from the network by more than 1e-4 of the largest logit is refused
(exit code 2).

  .venv/bin/python tools/export_onnx.py --config-file configs/sfnet/semantic_R_18_SFNet_camvid.yaml \\
      --weights output/semantic_R_18_SFNet_camvid/model_final.pth --output output/sfnet_r18.onnx
  .venv/bin/python tools/export_onnx.py --config-file configs/sfnet/semantic_R_18_SFNet_cityscapes.yaml \\
      --weights model_final.pth --output output/sfnet_r18.onnx --static --size 1024x2048 --labels --uint8
"""

import argparse
from pathlib import Path

import torch

from fapn_d2.config.user_code import add_import_argument, import_files
from fapn_d2.export.onnx import LEAST_OPSET, OPSET, export_onnx, require_packages
from fapn_d2.inference.trained import load_trained, trained_config
from fapn_d2.messages import user_errors_as_messages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--weights", help="checkpoint; default MODEL.WEIGHTS")
    parser.add_argument("--output", type=Path, required=True, help="the file, ending with .onnx")
    parser.add_argument("--size", type=_size, metavar="HEIGHTxWIDTH", help="compare at this size, too; see --static")
    parser.add_argument("--static", action="store_true", help="fix the size to --size and the batch to one image")
    parser.add_argument("--opset", type=int, default=OPSET, help=f"{LEAST_OPSET} or later; default {OPSET}")
    parser.add_argument("--labels", action="store_true", help="a second output: the class with the highest logit")
    parser.add_argument("--uint8", action="store_true", help="take images as uint8 instead of float32")
    parser.add_argument("--grid-sample", action="store_true", help="FaPN without DeformConv, for runtimes that lack it")
    parser.add_argument("--threads", type=int, default=1, help="threads of both runtimes, for the printed times")
    add_import_argument(parser)
    parser.add_argument("--debug", action="store_true", help="tracebacks for all errors")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys")
    args = parser.parse_args()
    with user_errors_as_messages(debug=args.debug):
        require_packages()
        torch.set_num_threads(args.threads)
        import_files(args.imports)
        cfg = trained_config(args.config_file, weights=args.weights, opts=args.opts)
        export = export_onnx(
            load_trained(cfg, device="cpu"),
            cfg,
            args.output,
            size=args.size,
            static=args.static,
            opset=args.opset,
            labels=args.labels,
            uint8=args.uint8,
            grid_sample=args.grid_sample,
        )
    print(export.text)


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = map(int, text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, as in 512x1024") from None
    if height < 1 or width < 1:
        raise argparse.ArgumentTypeError(f"{text!r} has no pixels")
    return height, width


if __name__ == "__main__":
    main()
