"""Comparisons of necks, of whole networks in inference, and of training steps."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from detectron2.modeling import Backbone
from detectron2.utils.events import EventStorage
from torch import nn

from ..engine.solver import build_optimizer
from ..layers.deform_conv.module import ModulatedDeformConv2d
from .inputs import build_random_network, random_batch, settle_norms
from .measure import Comparison
from .options import DTYPES, Options, with_backend


def neck_comparisons(options: Options) -> Iterator[Comparison]:
    """The pyramids of the configs on the same random bottom-up maps, without the bottom-up network."""
    for setting, size, batch, configs in _settings(options, "neck", options.passes):

        def build(config: str, size=size, batch=batch, setting=setting) -> tuple[nn.Module, Callable]:
            model, _ = build_random_network(config, options.overrides, options.device, options.memory_format)
            backward = setting["pass"] == "forward+backward"
            pyramid = _on_fixed_maps(model.backbone, size, batch, setting["dtype"], options, backward)
            run = options.prepared(pyramid)

            def forward():
                with options.autocast(setting["dtype"]), torch.set_grad_enabled(backward):
                    return list(run(None).values())

            def forward_backward():
                pyramid.zero_grad(set_to_none=True)
                outputs = forward()
                torch.autograd.backward(outputs, [torch.ones_like(t) for t in outputs])

            return pyramid, forward_backward if backward else forward

        yield _compare("neck", setting, configs, build, batch, options)


def model_comparisons(options: Options) -> Iterator[Comparison]:
    """Inference with the networks of the configs, from images in memory to Detectron2's results."""
    for setting, size, batch, configs in _settings(options, "model", ("forward",)):

        def build(config: str, size=size, batch=batch, setting=setting) -> tuple[nn.Module, Callable]:
            model, cfg = build_random_network(config, options.overrides, options.device, options.memory_format)
            images = random_batch(cfg, size, batch, options.device)
            settle_norms(model, images)
            model.eval()
            model.backbone = options.prepared(model.backbone)

            def forward():
                with options.autocast(setting["dtype"]), torch.no_grad():
                    return model(images)

            return model, forward

        yield _compare("model", setting, configs, build, batch, options)


def train_comparisons(options: Options) -> Iterator[Comparison]:
    """Forward, backward and the optimiser's step with the networks of the configs, on images with random labels."""
    for setting, size, batch, configs in _settings(options, "train", ("forward+backward+step",)):

        def build(config: str, size=size, batch=batch, setting=setting) -> tuple[nn.Module, Callable]:
            model, cfg = build_random_network(config, options.overrides, options.device, options.memory_format)
            images = random_batch(cfg, size, batch, options.device)
            settle_norms(model, images)
            optimizer = build_optimizer(cfg, model.train())
            for group in optimizer.param_groups:
                group["lr"] = 0.0  # the same work, but the weights do not change
            scaler = torch.amp.GradScaler(options.device.type, enabled=setting["dtype"] == "fp16")
            model.backbone = options.prepared(model.backbone)

            def step():
                optimizer.zero_grad()
                # Detectron2's heads write statistics to a storage, which its trainer opens otherwise.
                with EventStorage(), options.autocast(setting["dtype"]):
                    loss = sum(model(images).values())
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()

            return model, step

        yield _compare("train", setting, configs, build, batch, options)


def _settings(options: Options, suite: str, passes: tuple[str, ...]) -> Iterator[tuple]:
    for configs in options.configs:
        for size in options.images:
            for batch in options.batches:
                for dtype in options.dtypes:
                    for which in passes:
                        image = f"{size[0]}x{size[1]}"
                        yield {"image": image, "batch": batch, "dtype": dtype, "pass": which}, size, batch, configs


def _compare(suite, setting, configs, build, items: int, options: Options) -> Comparison:
    """One alternative for each config, and one more with torchvision's operator if it has deformable convolutions."""
    calls = {}
    for config in configs:
        name = Path(config).stem
        model, call = build(config)
        calls[name] = options.recorded(call, "auto")
        if any(isinstance(m, ModulatedDeformConv2d) for m in model.modules()):
            other = f"{name} on torchvision"
            calls[other] = with_backend("torchvision", options.recorded(build(config)[1], "torchvision"))
    return Comparison(suite, setting, Path(configs[0]).stem, calls, items=items)


class _FixedMaps(Backbone):
    """Replaces a bottom-up network and returns the same maps for any image."""

    def __init__(self, bottom_up: Backbone, maps: dict[str, torch.Tensor]):
        super().__init__()
        self.maps = maps
        self._shapes = bottom_up.output_shape()

    def forward(self, image: None) -> dict[str, torch.Tensor]:
        return self.maps

    def output_shape(self):
        return self._shapes


def _on_fixed_maps(
    pyramid: nn.Module, size: tuple[int, int], batch: int, dtype: str, options: Options, backward: bool
) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    maps = {}
    for name, shape in pyramid.bottom_up.output_shape().items():
        height, width = (math.ceil(s / 32) * 32 // shape.stride for s in size)
        values = torch.randn(batch, shape.channels, height, width, generator=generator)
        values = values.to(options.device, DTYPES[dtype]).contiguous(memory_format=options.memory_format)
        maps[name] = values.requires_grad_(backward)
    pyramid.bottom_up = _FixedMaps(pyramid.bottom_up, maps)
    return pyramid.train(backward)
