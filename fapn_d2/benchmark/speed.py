"""Frames per second of real-time networks at a fixed size, compared with their papers.

The papers do not say what exactly they timed. Here a frame is one pass of the network in evaluation mode, with the
device idle before and after. By default it starts with a uint8 image on the device and ends with logits at the image's
size, so that normalisation and the last upsampling are included; TIMED has the other choices. Weights are random, with
batch statistics of one image, and images are noise; the work is the same.
"""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import torch
from detectron2.config import CfgNode

from ..inference.realtime import RealTimeSegmentor
from ..reproduction.ledger import CONFIGS, Row, iterate_rows, load_ledgers
from .inputs import SETTINGS, build_random_network, random_batch, settle_norms
from .measure import Comparison
from .options import DTYPES, Options

#: Height and width in pixels -> the networks that are timed there by default.
CITYSCAPES = (
    "sfnet/semantic_R_18_SFNet_cityscapes.yaml",
    "sfnet/semantic_DF1_SFNet_cityscapes.yaml",
    "sfnet/semantic_DF2_SFNet_cityscapes.yaml",
    "fapn/realtime_R_18_FaPN_cityscapes.yaml",
)
DEFAULTS = {
    (1024, 2048): CITYSCAPES,
    (512, 1024): CITYSCAPES,
    (360, 480): (
        "sfnet/semantic_R_18_SFNet_camvid.yaml",
        "sfnet/semantic_DF2_SFNet_camvid.yaml",
        "fapn/realtime_R_18_FaPN_camvid.yaml",
    ),
}


def speed_comparisons(options: Options) -> Iterator[Comparison]:
    """Each network at each size: plain in float32, as in the papers, then in each precision with the user's options."""
    for size in options.images:
        configs = [config for group in options.configs for config in group]
        for config in configs or [str(CONFIGS / name) for name in DEFAULTS.get(size, CITYSCAPES)]:
            for batch in options.batches:
                yield _comparison(config, size, batch, options)


def _comparison(config: str, size: tuple[int, int], batch: int, options: Options) -> Comparison:
    model, cfg = build_random_network(config, options.overrides, options.device, torch.contiguous_format)
    settle_norms(model, random_batch(cfg, size, 1, options.device))
    model.eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (batch, 3, *size), dtype=torch.uint8, generator=generator)
    if options.timed != "host":
        images = images.to(options.device)
    elif options.device.type == "cuda":
        images = images.pin_memory()

    def call(**how) -> Callable[[], torch.Tensor]:
        output = "logits" if options.timed == "logits" else "labels"
        network = RealTimeSegmentor(model, size, batch=batch, output=output, **how)
        return lambda: network(images).cpu() if options.timed == "host" else network(images)

    plain = "float32"
    calls = {plain: call()}
    for dtype in options.dtypes:
        ways = {
            "channels-last": options.channels_last,
            "norms folded": options.fold_norms,
            "compiled": options.compile,
            "CUDA graph": options.cuda_graph,
        }
        name = ", ".join([dtype, *(way for way, chosen in ways.items() if chosen)])
        if name != plain:
            calls[name] = call(
                dtype=DTYPES[dtype],
                channels_last=options.channels_last,
                fold=options.fold_norms,
                compile=options.compile,
                cuda_graph=options.cuda_graph,
            )
    row = paper_row(config, cfg, size)
    setting = {
        "network": Path(config).stem,
        "image": f"{size[0]}x{size[1]}",
        "batch": batch,
        "timed": options.timed,
        "paper_row": row.id if row else None,
        "paper_fps": row.paper["FPS"] if row else None,
    }
    return Comparison("speed", setting, plain, calls, items=batch)


def paper_row(config: str, cfg: CfgNode, size: tuple[int, int]) -> Row | None:
    """The first row of the ledgers with frames per second of exactly this network on images of this size."""
    wanted = _network_of(cfg)
    for row in _rows_with_speed():
        if row.network.config != Path(config).resolve():
            continue
        theirs = row.network.load([*SETTINGS, "MODEL.DEVICE", cfg.MODEL.DEVICE])
        if _test_size(theirs) == size and _network_of(theirs) == wanted:
            return row
    return None


@cache
def _rows_with_speed() -> tuple[Row, ...]:
    rows = iterate_rows(load_ledgers())
    return tuple(row for row in rows if "FPS" in row.paper and not row.pending and "" in row.networks)


def _network_of(cfg: CfgNode) -> str:
    return cfg.MODEL.dump()


def _test_size(cfg: CfgNode) -> tuple[int, int]:
    """Size of timed images: that of training crops if images are tested at their own size."""
    if cfg.INPUT.MIN_SIZE_TEST == 0:
        return tuple(cfg.INPUT.SCALE_CROP.SIZE)
    return cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
