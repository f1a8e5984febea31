"""Triton code that is shared by the kernels of the deformable convolution and of the flow warp."""

import triton
import triton.language as tl


@triton.jit
def _split(coordinate, SIZE):
    """Whole and fractional part of a position. Positions far outside are clamped so that the whole part fits an
    integer; a NaN stays in the fractional part."""
    coordinate = tl.maximum(coordinate, -2.0, propagate_nan=tl.PropagateNan.ALL)
    coordinate = tl.minimum(coordinate, SIZE + 1.0, propagate_nan=tl.PropagateNan.ALL)
    whole = tl.floor(coordinate)
    return whole.to(tl.int32), coordinate - whole
