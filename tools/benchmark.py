"""Time and memory of this project's operators and networks, compared with their alternatives in one process.

suites:
  ops      modulated deformable 3x3 convolution, torchvision's, and a plain 3x3 convolution as the lower limit;
           flow warp and sum, the same by grid_sample, and bilinear upsampling and sum as the lower limit
  neck     FaPN's pyramid and FPN's on the same bottom-up maps
  model    inference of whole networks; --stages divides it among bottom-up network, neck, heads and so on, and a
           forward pass in training among these, matching and losses
  losses   the mask losses of MaskFormer and PanopticFCN in chunks, beside all masks at once
  train    forward, backward and step of whole networks
  speed    frames per second of real-time networks at fixed size, compared with the papers' numbers
  sweep    the deformable convolution's CUDA kernels with other launch parameters
  goals    the project's targets for this kind of device, and whether they are reached

examples:
  .venv/bin/python tools/benchmark.py ops --quick
  .venv/bin/python tools/benchmark.py ops --images 800x1333 --strides 4 --batches 2 --dtypes bf16
  .venv/bin/python tools/benchmark.py model --images 512x1024 --batches 1 --dtypes bf16 --channels-last --compile \\
      --configs configs/fapn/semantic_R_18_FPN_camvid.yaml configs/fapn/semantic_R_18_FaPN_camvid.yaml
  .venv/bin/python tools/benchmark.py model --stages --images 256x384 --opts MODEL.WEIGHTS "" \\
      --configs configs/fapn/mask_former_R_50_FaPN_ade20k.yaml
  .venv/bin/python tools/benchmark.py speed --channels-last --fold-bn --compile --cuda-graph
"""

import argparse
from dataclasses import replace

import torch

from fapn_d2.benchmark.goals import THREADS, Trial, Verdict, judge, trials
from fapn_d2.benchmark.launch_sweep import sweep_comparisons
from fapn_d2.benchmark.mask_losses import mask_loss_comparisons
from fapn_d2.benchmark.measure import Measurement, measure
from fapn_d2.benchmark.networks import model_comparisons, neck_comparisons, train_comparisons
from fapn_d2.benchmark.operators import OPERATORS, operator_comparisons
from fapn_d2.benchmark.options import DTYPES, PASSES, TIMED, Options
from fapn_d2.benchmark.speed import DEFAULTS as SPEED_SIZES
from fapn_d2.benchmark.speed import speed_comparisons
from fapn_d2.benchmark.stages import stage_measurements
from fapn_d2.benchmark.tables import speed_table, stage_table, table, write_json
from fapn_d2.config.loading import CONFIGS
from fapn_d2.engine.provenance import describe_machine
from fapn_d2.messages import user_errors_as_messages

SUITES = {
    "ops": operator_comparisons,
    "neck": neck_comparisons,
    "model": model_comparisons,
    "train": train_comparisons,
    "losses": mask_loss_comparisons,
    "speed": speed_comparisons,
    "sweep": sweep_comparisons,
}
MASK_RCNN = ("mask_rcnn_R_50_FPN_1x.yaml", "mask_rcnn_R_50_FaPN_1x.yaml")
SEMANTIC = ("semantic_R_18_FPN_camvid.yaml", "semantic_R_18_FaPN_camvid.yaml")
#: Configs that are compared if none are named, and the same for --quick.
GROUPS = {"neck": (MASK_RCNN,), "model": (MASK_RCNN, SEMANTIC), "train": (MASK_RCNN,)}
QUICK_GROUPS = {"neck": (SEMANTIC,), "model": (SEMANTIC,), "train": (SEMANTIC,)}


def image_size(text: str) -> tuple[int, int]:
    height, separator, width = text.lower().partition("x")
    if not (separator and height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, as in 800x1333")
    return int(height), int(width)


def positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _timed_help() -> str:
    return "speed: " + "; ".join(f"{name}: {what}" for name, what in TIMED.items()) + " (default: logits)"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=[*SUITES, "goals"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=positive, help=f"number of CPU threads (default: torch's; goals: {THREADS})")
    parser.add_argument("--images", type=image_size, nargs="+", help="HEIGHTxWIDTH in pixels")
    parser.add_argument("--batches", type=positive, nargs="+", help="numbers of images per call")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, help="half precisions run under autocast")
    parser.add_argument("--passes", nargs="+", choices=PASSES, help="passes of ops and neck")
    parser.add_argument(
        "--strides", type=positive, nargs="+", default=(4, 8, 16), help="ops, sweep: levels of the pyramid"
    )
    parser.add_argument("--channels", type=positive, default=256, help="ops, sweep")
    parser.add_argument("--groups", type=positive, default=8, help="ops, sweep: offset groups")
    parser.add_argument("--operators", nargs="+", choices=OPERATORS, default=tuple(OPERATORS), help="of ops")
    parser.add_argument(
        "--configs",
        nargs="+",
        action="append",
        help="neck, model, train: YAML files to compare, the reference first; speed: to time",
    )
    parser.add_argument("--opts", nargs="+", default=(), metavar="KEY VALUE", help="changes to every config")
    parser.add_argument("--repeats", type=positive, help="timed runs of each alternative")
    parser.add_argument("--warmup", type=positive, help="runs before those")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile of operator, neck, network's backbone, network"
    )
    parser.add_argument("--cuda-graph", action="store_true", help="replay the forward pass (ops, neck, speed)")
    parser.add_argument("--fold-bn", action="store_true", help="speed: batch norms become part of convolutions")
    parser.add_argument("--timed", choices=TIMED, default="logits", help=_timed_help())
    parser.add_argument("--stages", action="store_true", help="model: the time of each stage")
    parser.add_argument("--quick", action="store_true", help="few small settings: under a minute on two cores")
    parser.add_argument("--json", default="output/benchmark.json", help="file for the numbers")
    parser.add_argument("--debug", action="store_true", help="tracebacks for all errors")
    return parser.parse_args(argv)


def options_from(args: argparse.Namespace) -> Options:
    """Real sizes on a GPU; one image of 480x640 on a CPU, whose stride-4 map is the 120x160 of the project's notes."""
    device = torch.device(args.device)
    large = device.type == "cuda" and not args.quick
    if args.suite == "speed":
        default_images = tuple(SPEED_SIZES) if large else ((360, 480),)
    else:
        default_images = ((800, 1333), (512, 1024), (1024, 2048)) if large else ((480, 640),)
    if args.quick:
        default_images = ((192, 256),)
    groups = QUICK_GROUPS if args.quick else GROUPS
    configs = args.configs or [[str(CONFIGS / "fapn" / name) for name in group] for group in groups.get(args.suite, ())]
    return Options(
        device=device,
        images=tuple(args.images or default_images),
        batches=tuple(args.batches or ((1, 2, 8) if large and args.suite != "speed" else (1,))),
        dtypes=tuple(args.dtypes or (DTYPES if large else ("float32",))),
        passes=tuple(args.passes or (("forward",) if args.cuda_graph else PASSES)),
        strides=tuple(args.strides),
        channels=args.channels,
        groups=args.groups,
        operators=tuple(args.operators),
        configs=tuple(map(tuple, configs)),
        overrides=tuple(args.opts),
        channels_last=args.channels_last,
        compile=args.compile,
        cuda_graph=args.cuda_graph,
        fold_norms=args.fold_bn,
        timed=args.timed,
    ).check(args.suite)


def main(args: argparse.Namespace) -> None:
    threads = args.threads or (THREADS if args.suite == "goals" else None)
    if threads:
        torch.set_num_threads(threads)
    options = options_from(args)
    if args.stages and args.suite != "model":
        raise ValueError(f"--stages is for the suite model, not {args.suite}")
    repeats = args.repeats or (3 if args.quick else 20 if options.device.type == "cuda" else 7)
    warmup = args.warmup or (5 if options.device.type == "cuda" else 1)
    machine = describe_machine(options.device)
    print("".join(f"{key}: {value}\n" for key, value in machine.items()))
    measurements: list[Measurement] = []
    verdicts: list[Verdict] = []
    for trial in trials(options.device) if args.suite == "goals" else (Trial(args.suite),):
        chosen = replace(options, **trial.options).check(trial.suite)
        for comparison in SUITES[trial.suite](chosen):
            found = measure(comparison, options.device, repeats=repeats, warmup=warmup)
            print((speed_table if trial.suite == "speed" else table)(comparison, found), flush=True)
            measurements += found
            verdicts += judge(trial, comparison, found)
            # each time, so that an interrupted run keeps what it has
            write_json(args.json, machine, measurements, [vars(verdict) for verdict in verdicts])
    for found in stage_measurements(options, repeats=repeats, warmup=warmup) if args.stages else ():
        print(stage_table(found), flush=True)
        measurements += found
        write_json(args.json, machine, measurements)
    print("".join(f"{verdict.line}\n" for verdict in verdicts) + f"numbers: {args.json}")


if __name__ == "__main__":
    arguments = parse()
    with user_errors_as_messages(debug=arguments.debug):
        main(arguments)
