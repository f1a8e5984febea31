"""Shapes of the programs that run the kernels of cuda_kernels.py.

The shapes were chosen by the compiler's report on each (registers, spills, shared memory) for compute capabilities 8.0,
8.9 and 9.0. ``tools/benchmark.py sweep`` measures them and other shapes on your GPU.
"""

from dataclasses import dataclass

from ..triton_support import power_of_two

#: Bytes of shared memory per block from which on the large shapes are used: data-centre GPUs since Hopper.
ROOMY = 200 * 1024


@dataclass(frozen=True)
class Launch:
    """What one program processes at a time, and which part of a multiprocessor it uses."""

    tile_h: int  # rectangle of output pixels
    tile_w: int
    outputs: int  # output channels
    slots: int  # (group, tap) pairs
    channels: int  # of a group
    warps: int
    stages: int  # iterations of the loop in flight

    def __str__(self) -> str:
        return (
            f"{self.tile_h}x{self.tile_w} pixels, {self.outputs} outputs, {self.slots} slots x {self.channels}, "
            f"{self.warps} warps, {self.stages} stages"
        )

    @property
    def blocks(self) -> dict[str, int]:
        """Keyword arguments of the kernels and of Triton's launcher."""
        return {
            "BLOCK_M": self.tile_h * self.tile_w,
            "TILE_W": self.tile_w,
            "BLOCK_O": self.outputs,
            "SLOTS": self.slots,
            "BLOCK_C": self.channels,
            "num_warps": self.warps,
            "num_stages": self.stages,
        }


@dataclass(frozen=True)
class Work:
    """The numbers that the shapes depend on: sizes of the problem and of the device."""

    half: bool  # 16-bit input
    pixels: int  # of the output, all images
    group_c: int  # channels of an offset group
    outputs: int  # output channels
    multiprocessors: int
    shared_memory: int  # bytes that one block may use

    @property
    def roomy(self) -> bool:
        return self.shared_memory >= ROOMY

    def shape(self, tile: tuple[int, int], *, outputs: int, depth: int, warps: int, stages: int) -> Launch:
        """A launch that multiplies matrices of ``depth`` columns: as many slots as fill it."""
        channels = channels_at_a_time(self.group_c, depth)
        outputs = min(outputs, max(16, power_of_two(self.outputs)))
        return Launch(*tile, outputs, depth // channels, channels, warps, stages)


def forward_launch(work: Work) -> Launch:
    """For `forward_kernel`. Each program samples the input, so it covers as many output channels as it can."""
    if not work.half:
        return work.shape((8, 8), outputs=128, depth=32, warps=8, stages=2)
    if not work.roomy:
        return work.shape((8, 8), outputs=256, depth=32, warps=8, stages=2)
    if _programs(work, 8 * 16, 256) >= work.multiprocessors:
        return work.shape((8, 16), outputs=256, depth=32, warps=8, stages=3)
    outputs = 256 if _programs(work, 8 * 8, 256) >= work.multiprocessors else 128
    return work.shape((8, 8), outputs=outputs, depth=32, warps=4, stages=3)


def position_launch(work: Work) -> Launch:
    """For `position_kernel`. It sums over output channels: a program that has all of them reads gradients once."""
    if not work.half:
        return work.shape((8, 4), outputs=32, depth=32, warps=4, stages=2)
    return work.shape((8, 8), outputs=256, depth=32, warps=8, stages=2)


def weight_launch(work: Work) -> Launch:
    """For `weight_kernel`. Blocks of the weight matrix are large, because every block reads all gradients."""
    if not work.half:
        return work.shape((8, 4), outputs=128, depth=64, warps=8, stages=2)
    if not work.roomy:
        return work.shape((8, 8), outputs=128, depth=64, warps=8, stages=2)
    return work.shape((8, 8), outputs=256, depth=128, warps=8, stages=2)


def channels_at_a_time(group_c: int, limit: int) -> int:
    """A power of two, at most ``limit``: one that divides the channels of a group if it is at least 16, else one that
    is not below their number."""
    divisor = group_c & -group_c
    return min(limit, divisor if divisor >= 16 else power_of_two(group_c))


def _programs(work: Work, pixels: int, outputs: int) -> int:
    return -(-work.pixels // pixels) * -(-work.outputs // outputs)
