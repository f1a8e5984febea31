"""Time and memory of alternatives that do the same work, measured in turns in one process."""

import ctypes
import gc
import re
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch


@dataclass(frozen=True)
class Measurement:
    """Time and memory of one alternative in one setting."""

    suite: str  # "ops", "neck", "model" or "train"
    setting: dict[str, object]  # the same for all alternatives: size, batch, dtype, pass
    name: str  # name of the alternative
    median_ms: float
    iqr_ms: float  # interquartile range of the runs
    runs: int
    peak_mib: float | None  # memory beyond what was held before the call; None if it is unknown
    items: int = 1  # images in a call


@dataclass
class Comparison:
    """Alternatives for one setting. Ratios are relative to the alternative named ``reference``."""

    suite: str
    setting: dict[str, object]
    reference: str
    alternatives: Mapping[str, Callable[[], object]]
    items: int = 1
    #: Errors of alternatives that cannot run here; the others are still measured.
    expected: tuple[type[Exception], ...] = (torch.OutOfMemoryError,)
    #: Alternatives that raised one of them -> first line of its message.
    skipped: dict[str, str] = field(default_factory=dict)


def measure(comparison: Comparison, device: torch.device, *, repeats: int, warmup: int) -> list[Measurement]:
    """Run all alternatives ``repeats`` times in turns, so that other work on the machine slows all of them alike.

    An alternative that raises an error of ``comparison.expected`` is left out and noted in ``comparison.skipped``.
    """
    alternatives = dict(comparison.alternatives)
    for name, call in list(alternatives.items()):
        try:
            for _ in range(warmup):
                call()
            _synchronize(device)
        except comparison.expected as error:
            comparison.skipped[name] = str(error).splitlines()[0]
            del alternatives[name]
            _release(device)
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for _ in range(repeats):
        for name, call in alternatives.items():
            seconds[name].append(_time(call, device))
    peaks = {name: peak_memory(call, device) for name, call in alternatives.items()}
    return [
        Measurement(
            suite=comparison.suite,
            setting=comparison.setting,
            name=name,
            median_ms=1e3 * statistics.median(times),
            iqr_ms=1e3 * interquartile_range(times),
            runs=len(times),
            peak_mib=peaks[name],
            items=comparison.items,
        )
        for name, times in seconds.items()
    ]


def peak_memory(call: Callable[[], object], device: torch.device) -> float | None:
    """Peak memory of ``call`` in MiB beyond what was held before: of the CUDA allocator, or of the process.

    The memory of a process is known on Linux only (from /proc); the result is None elsewhere.
    """
    _release(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        _synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak of the process to its present size
        before = _status_kib("VmRSS")
        call()
        return max(0, _status_kib("VmHWM") - before) / 2**10
    except OSError:
        return None


def _status_kib(name: str) -> int:
    return int(re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M).group(1))


def _release(device: torch.device) -> None:
    """Free memory that allocators keep, so that the peak of the next call can be seen."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):  # not glibc: the peak may be too small
        return


def _time(call: Callable[[], object], device: torch.device) -> float:
    _synchronize(device)
    start = time.perf_counter()
    call()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interquartile_range(values: list[float]) -> float:
    """Difference of the upper and the lower quartile; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low
