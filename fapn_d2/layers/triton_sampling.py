"""Triton code that the kernels of the deformable convolution and of the flow warp share."""

import triton
import triton.language as tl


@triton.jit
def _split(coordinate, SIZE):
    """Whole and fractional part. Far positions are brought near to fit an integer; NaN stays in the fraction."""
    coordinate = tl.maximum(coordinate, -2.0, propagate_nan=tl.PropagateNan.ALL)
    coordinate = tl.minimum(coordinate, SIZE + 1.0, propagate_nan=tl.PropagateNan.ALL)
    whole = tl.floor(coordinate)
    return whole.to(tl.int32), coordinate - whole
