"""How the time of a network is divided among its stages: bottom-up network, neck, heads, matching, losses, ..."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from detectron2.utils.events import EventStorage
from torch import nn

from .inputs import build_random_network, random_batch, settle_norms
from .measure import Measurement, interquartile_range
from .options import Options

#: (name of the stage, where it is in a network). Time of a stage inside another one counts for the inner one alone. A
#: network has those whose place exists; what is in none of them is REST.
STAGES = (
    ("bottom-up", "backbone.bottom_up"),
    ("neck", "backbone"),
    ("pixel decoder", "sem_seg_head.pixel_decoder"),
    ("transformer decoder", "sem_seg_head.predictor"),
    ("semantic head", "sem_seg_head"),
    ("semantic branch", "semantic_fpn"),
    ("feature encoder", "feature_encoder"),
    ("position head", "position_head"),
    ("kernel head", "kernel_head"),
    ("proposals", "proposal_generator"),
    ("RoI heads", "roi_heads"),
    ("head", "head"),
    ("matching", "criterion.matcher"),
    ("targets", "targets"),
    ("losses", "criterion"),
    ("losses", "losses"),
    ("post-processing", "_predict_one"),
    ("post-processing", "_result"),
)
#: Normalising and padding images, and what no stage has.
REST = "rest"
PASSES = ("inference", "training, forward")


class StageTimer:
    """Seconds of each stage in calls of a network.

    Args:
        device: waited for at the beginning and the end of every stage, so that the sum is larger than the time of the
            network alone where a GPU works ahead.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    def _switch(self) -> None:
        """Count the time since the last change for the innermost stage."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] = self.seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What runs inside belongs to ``name``, except for stages that are opened inside."""
        self._switch()
        self._open.append(name)
        try:
            yield
        finally:
            self._switch()
            self._open.pop()

    def timed(self, name: str, call: Callable) -> Callable:
        """``call`` as a stage."""

        def run(*args, **kwargs):
            with self.stage(name):
                return call(*args, **kwargs)

        return run


@contextmanager
def timed_stages(model: nn.Module, timer: StageTimer) -> Iterator[None]:
    """Count the stages of ``model`` in ``timer``; afterwards the network is as it was."""
    replaced = []
    try:
        for name, place in STAGES:
            *path, last = place.split(".")
            owner = model
            for part in path:
                owner = getattr(owner, part, None)
            found = getattr(owner, last, None)
            if not callable(found):
                continue
            if place == "backbone" and not hasattr(found, "bottom_up"):
                name = "bottom-up"
            if isinstance(found, nn.Module):
                target, key, call = found, "forward", found.forward
            else:
                target, key, call = owner, last, found
            replaced.append((target, key, vars(target).get(key)))
            # not by setattr: a network registers modules and parameters there
            vars(target)[key] = timer.timed(name, call)
        yield
    finally:
        for target, key, before in reversed(replaced):
            if before is None:
                del vars(target)[key]
            else:
                vars(target)[key] = before


def stage_measurements(options: Options, *, repeats: int, warmup: int) -> Iterator[list[Measurement]]:
    """For every network and setting the stages of inference, then those of a forward pass in training with its losses.

    Yields:
        One measurement per stage, of medians over ``repeats`` calls; their names are those of the stages.
    """
    for config in dict.fromkeys(config for group in options.configs for config in group):
        for size in options.images:
            for batch in options.batches:
                for dtype in options.dtypes:
                    model, cfg = build_random_network(config, options.overrides, options.device, options.memory_format)
                    images = random_batch(cfg, size, batch, options.device)
                    settle_norms(model, images)
                    for which in PASSES:
                        setting = {"network": Path(config).stem, "image": f"{size[0]}x{size[1]}"}
                        setting |= {"batch": batch, "dtype": dtype, "pass": which}
                        calls = []
                        for n in range(warmup + repeats):
                            seconds = _one_call(model.train(which != "inference"), images, dtype, options)
                            calls += [seconds] if n >= warmup else []
                        yield _summary(setting, calls, batch)


def _one_call(model: nn.Module, images: list[dict], dtype: str, options: Options) -> dict[str, float]:
    timer = StageTimer(options.device)
    with (
        timed_stages(model, timer),
        EventStorage(),
        options.autocast(dtype),
        torch.set_grad_enabled(model.training),
        timer.stage(REST),
    ):
        model(images)
    return timer.seconds


def _summary(setting: dict, calls: list[dict[str, float]], images: int) -> list[Measurement]:
    order = list(dict.fromkeys(name for name, _ in STAGES)) + [REST]
    found = []
    for name in order:
        times = [1e3 * seconds[name] for seconds in calls if name in seconds]
        if times:
            median, spread = statistics.median(times), interquartile_range(times)
            found.append(Measurement("stages", setting, name, median, spread, len(times), None, images))
    return found
