"""RoI pooling under autocast on the CPU: torchvision registers its kernel for autocast on CUDA only."""

import torch
import torchvision  # noqa: F401  (defines the operator)

#: Keeps the registration alive.
_LIBRARY = torch.library.Library("torchvision", "IMPL")


def _pool(maps, rois, spatial_scale, pooled_height, pooled_width):
    """``torchvision::roi_pool`` in float32, with the result in the type of ``maps``, as torchvision does on CUDA.

    Without it the operator refuses maps of half precision, because the boxes are float32.
    """
    with torch.autocast("cpu", enabled=False):
        output, argmax = torch.ops.torchvision.roi_pool(
            maps.float(), rois.float(), spatial_scale, pooled_height, pooled_width
        )
    return output.to(maps.dtype), argmax


_LIBRARY.impl("roi_pool", _pool, "AutocastCPU")
